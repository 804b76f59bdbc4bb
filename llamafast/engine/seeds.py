"""The seeds of a request's choices."""

from __future__ import annotations

import hashlib


def choice_seed(seed: int, index: int) -> int:
    """The seed of choice `index` of a request: 0 has the request's own, the others one that is hashed from both.

    So choice 1 of seed 7 has nothing to do with choice 0 of seed 8. Seeds count modulo 2**64.
    """
    seed &= 2**64 - 1
    if index == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed} {index}".encode(), digest_size=8).digest(), "little")
