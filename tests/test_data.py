from __future__ import annotations

import numpy as np
import pytest

from training.data import batch_of_step, share_of_rank


def test_every_epoch_reads_every_block_once_in_an_order_of_its_own() -> None:
    steps = [batch_of_step(n, batch=6, blocks=10, seed=3) for n in range(5)]
    read = np.concatenate(steps).reshape(3, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in read.tolist())
    assert len({tuple(epoch) for epoch in read.tolist()}) == 3


def test_a_step_depends_on_the_seed_and_the_step_alone() -> None:
    first = batch_of_step(70, batch=8, blocks=100, seed=1)
    batch_of_step(0, batch=8, blocks=100, seed=2)
    assert np.array_equal(first, batch_of_step(70, batch=8, blocks=100, seed=1))
    assert not np.array_equal(first, batch_of_step(70, batch=8, blocks=100, seed=2))


def test_a_batch_may_be_larger_than_the_text() -> None:
    counts = np.bincount(batch_of_step(0, batch=25, blocks=10, seed=0), minlength=10)
    assert counts.sum() == 25
    assert counts.min() == 2


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_the_workers_shares_are_the_batch(workers: int) -> None:
    batch = batch_of_step(4, batch=8, blocks=100, seed=0)
    shares = [share_of_rank(batch, rank, workers) for rank in range(workers)]
    assert sorted(np.concatenate(shares).tolist()) == sorted(batch.tolist())
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
