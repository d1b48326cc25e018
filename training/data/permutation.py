"""A random order of very many numbers, without a list of them.

The order is a generalised Feistel cipher on the numbers below a square, with cycle walking for
those below any number (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002).
Each place of the order is computed by itself. The round function is the finaliser of SplitMix64
(Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import isqrt

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

ROUNDS = 8
"""Four are enough for a cipher on large numbers (Luby and Rackoff, SIAM J. Computing 17, 1988);
small ones need more."""


def permuted(places: Indices, size: int, key: Sequence[int]) -> Indices:
    """The numbers at some places of a random order of 0 to `size` - 1.

    Args:
        places: places below `size`, shape [n].
        size: how many numbers are ordered.
        key: the order is a function of it and of the size.

    Returns:
        Numbers, shape [n]; different ones for different places.
    """
    side = isqrt(size - 1) + 1 if size > 1 else 1
    digest = hashlib.blake2b(repr(tuple(key)).encode(), digest_size=8 * ROUNDS).digest()
    round_keys = np.frombuffer(digest, "<u8")
    numbers = places.astype(np.uint64)
    outside = np.ones(len(numbers), bool)
    while outside.any():
        numbers[outside] = _encrypted(numbers[outside], np.uint64(side), round_keys)
        outside = numbers >= size
    return numbers.astype(np.int64)


def _encrypted(
    numbers: NDArray[np.uint64], side: np.uint64, round_keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Numbers below the square of a side, each mapped to another such number."""
    left, right = numbers // side, numbers % side
    for key in round_keys:
        left, right = right, (left + _mixed(right ^ key) % side) % side
    return left * side + right


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 bits mapped to 64 bits, each of which depends on all of them."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
