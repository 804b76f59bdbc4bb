"""How large the parts of a JSON text are, found in one pass without the GIL, before anything builds objects of it."""

class JsonShape:
    """What JSON text would cost a parser; of a text that is no JSON, something."""

    weight: int
    num_objects: int
    num_strings: int
    depth: int
    num_fields: int
    largest: bytes

def shape_of(raw: bytes) -> JsonShape:
    """The shape of a JSON text in UTF-8. Never fails."""

def long_strings(raw: bytes, piece: int) -> list[list[int]]:
    """Of each string longer than `piece` bytes: where it begins, may be cut into pieces of about that size, and ends.

    What lies between two places is the inside of a JSON string by itself. Strings that cannot be cut are left out.
    """
