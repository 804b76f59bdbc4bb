"""The seeds of a request's choices."""

from __future__ import annotations

import hashlib


def choice_seed(seed: int, index: int) -> int:
    """The seed of choice `index` of a request, modulo 2**64.

    Choice 0 has the request's seed. The others have a hash of the seed and the index, so that choice 1 of seed 7 is
    unrelated to choice 0 of seed 8.
    """
    seed &= 2**64 - 1
    if index == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed} {index}".encode(), digest_size=8).digest(), "little")
