"""Keywords without effect because of their values. Many schema generators write them."""

from __future__ import annotations

from typing import Any

_NOOP_VALUES: dict[str, tuple[object, ...]] = {
    "uniqueItems": (False,),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "propertyNames": (True, {}, {"type": "string"}, {"type": ["string"]}),
    "patternProperties": ({},),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    "minLength": (0,),
    "minItems": (0,),
    "minProperties": (0,),
    "allOf": ([],),
    "not": (False,),
}


def drop_noop_keywords(schema: dict[str, Any]) -> None:
    """Remove them from one schema. Null is not a value of any keyword except `const`."""
    for name in [name for name, value in schema.items() if value is None and name != "const"]:
        del schema[name]
    for name, values in _NOOP_VALUES.items():
        if name in schema and any(schema[name] == value and type(schema[name]) is type(value) for value in values):
            del schema[name]
    if isinstance(schema.get("required"), bool):
        del schema["required"]  # draft 3, where the surrounding object requires it
    if "if" not in schema:
        schema.pop("then", None)
        schema.pop("else", None)
    elif "then" not in schema and "else" not in schema:
        del schema["if"]
