"""References within a schema: where they lead, and a part with all that it refers to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote, urldefrag, urljoin

from llamafast.errors import GrammarError
from llamafast.json_schema.subschemas import DEFINITIONS, locations, map_subschemas
from llamafast.json_schema.types import Schema, as_schema

# Notes for people, which only make a grammar's text longer; and names of the document, which stays behind.
_NOTES = frozenset({"title", "description", "default", "examples", "$comment", "$id", "id", "$anchor", "deprecated"})
_MAX_NAME = 32


class Document:
    """A whole schema, in which references are looked up.

    A reference is a JSON pointer in a fragment (RFC 6901, 6), or the name of an anchor; the schema's own $id may stand
    before it. Others are refused.
    """

    __slots__ = ("_anchors", "root")

    def __init__(self, root: object) -> None:
        self.root = root
        self._anchors: dict[str, object] | None = None

    def target(self, reference: str) -> object:
        """What a reference leads to. Raises GrammarError if it leads nowhere, or out of the schema."""
        pointer = unquote(self._fragment(reference))
        if pointer and not pointer.startswith("/"):
            if self._anchors is None:
                self._anchors = dict(_anchors(self.root))
            if pointer not in self._anchors:
                raise GrammarError(f"the reference {reference!r} leads nowhere: there is no such $anchor")
            return self._anchors[pointer]
        target = self.root
        for part in pointer.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and name.isdecimal() and int(name) < len(target):
                target = target[int(name)]
            elif isinstance(target, Mapping) and name in target:
                target = target[name]
            else:
                raise GrammarError(f"the reference {reference!r} leads nowhere")
        if not isinstance(target, Mapping | bool):
            raise GrammarError(f"the reference {reference!r} leads to no schema")
        return target

    def _fragment(self, reference: str) -> str:
        """What a reference says about this schema. Raises GrammarError if it is about another one."""
        if reference.startswith("#"):
            return reference[1:]
        own = as_schema(self.root).get("$id")
        try:
            base = urldefrag(own)[0] if isinstance(own, str) else ""
            url, fragment = urldefrag(urljoin(base, reference))
        except ValueError:
            base = url = fragment = ""
        if not base or url != base:
            raise GrammarError(f"the reference {reference!r} leads out of the schema")
        return fragment

    def standalone(self, schema: object) -> dict[str, object]:
        """A schema that means the same without the document: all that it reaches is defined in it."""
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
    """A name for what a reference leads to, of characters that need no escaping."""
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
    """The reference that a schema is, if it is one."""
    reference = schema.get("$ref")
    return reference if isinstance(reference, str) else None
