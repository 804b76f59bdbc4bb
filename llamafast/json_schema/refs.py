"""Document: resolves references in a schema, and makes a part of it independent of the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote, urldefrag, urljoin

from llamafast.errors import GrammarError
from llamafast.json_schema.subschemas import DEFINITIONS, locations, map_subschemas
from llamafast.json_schema.types import Schema, as_schema

# Annotations only make a grammar's text longer. The ids of the document are not needed outside it.
_NOTES = frozenset({"title", "description", "default", "examples", "$comment", "$id", "id", "$anchor", "deprecated"})
_MAX_NAME = 32


class Document:
    """A whole schema, in which references are resolved.

    A reference is a JSON pointer in a fragment (RFC 6901, section 6) or the name of an anchor, after the schema's own
    $id or without it. Other references are refused.
    """

    __slots__ = ("_anchors", "root")

    def __init__(self, root: object) -> None:
        self.root = root
        self._anchors: dict[str, object] | None = None

    def target(self, reference: str) -> object:
        """The schema that a reference points to. Raises GrammarError if there is none in this document."""
        pointer = unquote(self._fragment(reference))
        if pointer and not pointer.startswith("/"):
            if self._anchors is None:
                self._anchors = dict(_anchors(self.root))
            if pointer not in self._anchors:
                raise GrammarError(f"the reference {reference!r} points to an $anchor that does not exist")
            return self._anchors[pointer]
        target = self.root
        for part in pointer.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and name.isdecimal() and int(name) < len(target):
                target = target[int(name)]
            elif isinstance(target, Mapping) and name in target:
                target = target[name]
            else:
                raise GrammarError(f"the reference {reference!r} points to nothing")
        if not isinstance(target, Mapping | bool):
            raise GrammarError(f"the reference {reference!r} does not point to a schema")
        return target

    def _fragment(self, reference: str) -> str:
        """The fragment of a reference to this schema. Raises GrammarError if it is a reference to another schema."""
        if reference.startswith("#"):
            return reference[1:]
        own = as_schema(self.root).get("$id")
        try:
            base = urldefrag(own)[0] if isinstance(own, str) else ""
            url, fragment = urldefrag(urljoin(base, reference))
        except ValueError:
            base = url = fragment = ""
        if not base or url != base:
            raise GrammarError(f"the reference {reference!r} points to another document")
        return fragment

    def standalone(self, schema: object) -> dict[str, object]:
        """An equal schema that needs no document: it contains the definitions of everything that it refers to."""
        names: dict[int, str] = {}
        definitions: dict[str, object] = {}
        waiting: list[tuple[str, object]] = []

        def moved(part: object) -> object:
            if not isinstance(part, Mapping):
                return part
            kept = {key: value for key, value in part.items() if key not in _NOTES and key not in DEFINITIONS}
            reference = kept.get("$ref")
            out = map_subschemas(kept, moved)
            if isinstance(reference, str):
                target = self.target(reference)
                name = names.get(id(target)) if isinstance(target, Mapping) else None
                if name is None:
                    name = _new_name(reference, definitions)
                    names[id(target)] = name
                    definitions[name] = True
                    waiting.append((name, target))
                out["$ref"] = f"#/$defs/{name}"
            return out

        out = as_schema(moved(schema))
        while waiting:
            name, target = waiting.pop()
            definitions[name] = moved(target)
        return {**out, "$defs": definitions} if definitions else dict(out)


def _new_name(reference: str, taken: Mapping[str, object]) -> str:
    """A name for the target of a reference, in characters that need no escaping."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", unquote(reference).rpartition("/")[2])[:_MAX_NAME] or "root"
    return name if name not in taken else f"{name}-{len(taken)}"


def _anchors(root: object) -> list[tuple[str, object]]:
    found, waiting = list[tuple[str, object]](), [root]
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, Mapping):
            anchor = schema.get("$anchor")
            found += [(anchor, schema)] if isinstance(anchor, str) else []
            waiting += (container[key] for container, key in locations(schema, definitions=True))
    return found


def reference_of(schema: Schema) -> str | None:
    """The reference of a schema. None: it has none."""
    reference = schema.get("$ref")
    return reference if isinstance(reference, str) else None
