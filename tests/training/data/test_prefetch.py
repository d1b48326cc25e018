from __future__ import annotations

import hashlib
import threading
import time
from typing import Any

import numpy as np
import pytest

from evo.errors import UserError
from training.data.prefetch import AHEAD, Prefetch, digest
from training.data.sampler import Extent, Sampler

SAMPLER = Sampler(6, (Extent(30), Extent(8)), (0.7, 0.3), 0)
RNG = np.random.default_rng(0)
TEXTS = [RNG.integers(50, size=(30, 5)).astype(np.int32), RNG.integers(50, size=(8, 5))]


def rows_of(step: int) -> np.ndarray:
    batch = SAMPLER.step(step)
    pairs = zip(batch.sources, batch.blocks, strict=True)
    return np.array([TEXTS[source][block] for source, block in pairs])


class Slow:
    """Blocks that say when they are read."""

    def __init__(self, seconds: float = 0.0, fails_at: int = -1) -> None:
        self.reads, self._seconds, self._fails_at = 0, seconds, fails_at

    def __getitem__(self, numbers: Any) -> np.ndarray:
        time.sleep(self._seconds)
        if self.reads == self._fails_at:
            raise UserError("the text cannot be read")
        self.reads += 1
        return TEXTS[0][numbers]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_portions_are_the_steps_rows(workers: int) -> None:
    for step in (3, 4):
        expected, total = rows_of(step), 0
        for rank in range(workers):
            with Prefetch(
                SAMPLER, TEXTS, rank=rank, workers=workers, steps=range(step, 9)
            ) as local_batches:
                local_batch = next(local_batches)
            assert np.array_equal(local_batch.rows, expected[rank::workers])
            total += local_batch.digest
        assert (total - digest(expected)) % 2**64 == 0


def test_a_digest_tells_the_blocks_and_not_their_order() -> None:
    rows = rows_of(0).astype(np.int64)
    assert digest(rows) == digest(rows[::-1])
    other = rows.copy()
    other[2, 3] += 1
    assert digest(rows) != digest(other)
    assert digest(rows[:5]) != digest(rows)
    told = hashlib.blake2b(np.array([7, 300], "<i4").tobytes(), digest_size=8).digest()
    assert digest(np.array([[7, 300]])) % 2**64 == int.from_bytes(told, "little")
    assert -(2**63) <= digest(rows) < 2**63


def test_reading_is_ahead_of_the_loop() -> None:
    text, alone = Slow(0.05), Sampler(6, (Extent(30),), (1.0,), 0)
    with Prefetch(alone, [text], rank=0, workers=1, steps=range(20)) as local_batches:
        first = next(local_batches)
        time.sleep(0.6)
        assert text.reads == AHEAD + 2  # one is in its hands
        later = [next(local_batches) for _ in range(AHEAD)]
    assert first.waited > 0.04
    assert all(local_batch.waited < 0.04 for local_batch in later)


def test_an_error_of_reading_is_raised_in_the_loop_and_the_thread_ends() -> None:
    alone = Sampler(6, (Extent(30),), (1.0,), 0)
    with Prefetch(alone, [Slow(fails_at=2)], rank=0, workers=1, steps=range(20)) as local_batches:
        assert len([next(local_batches), next(local_batches)]) == 2
        with pytest.raises(UserError, match="cannot be read"):
            next(local_batches)
    with Prefetch(alone, [Slow()], rank=0, workers=1, steps=range(20)) as local_batches:
        next(local_batches)
    time.sleep(1.5)
    assert "prefetch" not in [thread.name for thread in threading.enumerate()]
