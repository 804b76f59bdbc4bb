"""JSON text of float32 vectors, against json and numpy."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from llamafast._vectors import json_array


def test_json_array_of_random_bits_reads_back_equal() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32)
    numbers = bits.view(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    read = np.array(json.loads(json_array(numbers.tobytes())), np.float32)
    assert (read.view(np.uint32) == numbers.view(np.uint32)).all()


@pytest.mark.parametrize(("numbers", "text"), [((), b"[]"), ((1.0,), b"[1]"), ((0.5, -0.1), b"[0.5,-0.1]")])
def test_json_array_of_few_numbers_is_short(numbers: tuple[float, ...], text: bytes) -> None:
    assert json_array(struct.pack(f"{len(numbers)}f", *numbers)) == text


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_json_array_of_a_number_that_is_not_finite_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        json_array(struct.pack("2f", 1.0, number))


def test_json_array_of_bytes_left_over_is_refused() -> None:
    with pytest.raises(ValueError, match="5 bytes"):
        json_array(b"12345")
