"""Validates long lists and objects in pieces: pydantic holds the GIL during a call and collects all errors."""

from __future__ import annotations

from itertools import islice

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator

_PIECE = 512


def _validated(value: object, handler: ValidatorFunctionWrapHandler) -> object:
    if isinstance(value, list) and len(value) > _PIECE:
        done: list[object] = []
        for start in range(0, len(value), _PIECE):
            piece = value[start : start + _PIECE]
            try:
                done += handler(piece)
            except ValidationError:
                # Validate again together with the valid pieces, so that the error has the index in the whole list.
                return handler(done + piece)
        return done
    if isinstance(value, dict) and len(value) > _PIECE:
        items = iter(value.items())
        fields: dict[object, object] = {}
        while part := dict(islice(items, _PIECE)):
            fields |= handler(part)
        return fields
    return handler(value)


IN_PIECES = WrapValidator(_validated)
"""Annotation of a list or an object that is validated in pieces."""
