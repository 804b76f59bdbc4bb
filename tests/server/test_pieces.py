"""Validation in pieces gives the same result and error as validation of the whole, and stops at the error."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from llamafast.server.schemas.pieces import IN_PIECES

NUM_ITEMS = 1300


class Item(BaseModel):
    model_config = ConfigDict(strict=True)

    a: int


class Plain(BaseModel):
    model_config = ConfigDict(strict=True)

    items: str | list[Item]
    named: dict[str, int] = {}


class InPieces(Plain):
    items: str | Annotated[list[Item], IN_PIECES]
    named: Annotated[dict[str, int], IN_PIECES] = {}


def faults(model: type[BaseModel], document: object) -> list[tuple]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(document)
    places = [(error["loc"], error["type"]) for error in caught.value.errors()]
    return [(tuple(part for part in loc if "[" not in str(part)), kind) for loc, kind in places if loc[1:] != ("str",)]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, NUM_ITEMS])
def test_pieces_of_a_right_document_give_the_whole(size):
    document = {"items": [{"a": i} for i in range(size)], "named": {str(i): i for i in range(size)}}
    assert InPieces.model_validate(document).model_dump() == Plain.model_validate(document).model_dump()


@pytest.mark.parametrize("place", [0, 511, 512, 1299])
def test_pieces_of_a_list_report_a_fault_at_its_place(place):
    document = {"items": [{"a": "x" if i == place else i} for i in range(NUM_ITEMS)]}
    assert faults(InPieces, document) == faults(Plain, document) == [(("items", place, "a"), "int_type")]


def test_pieces_of_an_object_report_a_fault_under_its_name():
    document = {"items": "", "named": {str(i): "x" if i == 700 else i for i in range(NUM_ITEMS)}}
    assert faults(InPieces, document) == faults(Plain, document) == [(("named", "700"), "int_type")]


def test_pieces_after_a_fault_are_not_validated():
    assert len(faults(InPieces, {"items": [{"a": "x"}] * 100_000})) < 1000
