"""Measures a JSON text in one pass without the GIL, before a parser builds objects from it."""

class JsonShape:
    """The cost of parsing a JSON text. For other texts the numbers have no meaning."""

    weight: int
    num_objects: int
    num_strings: int
    depth: int
    num_fields: int
    largest: bytes

def shape_of(raw: bytes) -> JsonShape:
    """The shape of a JSON text in UTF-8. Never fails."""

def long_strings(raw: bytes, piece: int) -> list[list[int]]:
    """Places at which the strings longer than `piece` bytes can be cut into pieces of about that size.

    Returns for each such string the offsets of its start, its cuts and its end. The bytes between two offsets are valid
    content of a JSON string. Strings that cannot be cut are omitted.
    """
