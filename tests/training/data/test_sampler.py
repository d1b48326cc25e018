from __future__ import annotations

import numpy as np
import pytest

from training.data.sampler import Batch, Extent, Sampler, deal


def one_source(batch: int, blocks: int, seed: int = 0) -> Sampler:
    return Sampler(batch, (Extent(blocks),), (1.0,), seed)


def test_every_epoch_reads_every_block_once_in_an_order_of_its_own() -> None:
    sampler = one_source(6, 10, seed=3)
    read = np.concatenate([sampler.step(n).blocks for n in range(5)]).reshape(3, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in read.tolist())
    assert len({tuple(epoch) for epoch in read.tolist()}) == 3


def test_a_step_depends_on_the_seed_and_the_step_alone() -> None:
    first = one_source(8, 100, seed=1).step(70).blocks
    one_source(8, 100, seed=2).step(0)
    assert np.array_equal(first, one_source(8, 100, seed=1).step(70).blocks)
    assert not np.array_equal(first, one_source(8, 100, seed=2).step(70).blocks)


def test_a_batch_may_be_larger_than_the_text() -> None:
    counts = np.bincount(one_source(25, 10).step(0).blocks, minlength=10)
    assert counts.sum() == 25
    assert counts.min() == 2


def test_a_stream_is_shuffled_within_windows() -> None:
    sampler = Sampler(6, (Extent(20, is_stream=True),), (1.0,), 0)
    read = np.concatenate([sampler.step(n).blocks for n in range(20)]).reshape(6, 20)
    for number, window in enumerate(read.tolist()):
        assert sorted(window) == list(range(20 * number, 20 * number + 20))
    assert len({tuple(window) for window in (read % 20).tolist()}) == 6


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_the_workers_shares_are_the_batch(workers: int) -> None:
    batch = Sampler(8, (Extent(100), Extent(9)), (0.6, 0.4), 0).step(4)
    shares = [batch.share(rank, workers) for rank in range(workers)]

    def pairs(*batches: Batch) -> list[tuple[int, int]]:
        return sorted(
            pair
            for one in batches
            for pair in zip(one.sources.tolist(), one.blocks.tolist(), strict=True)
        )

    assert pairs(*shares) == pairs(batch)
    sizes = [len(share.blocks) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "shares", [(1.0,), (0.5, 0.5), (0.7, 0.3), (1 / 3, 1 / 3, 1 / 3), (0.001, 0.9, 0.09, 0.009)]
)
def test_every_source_has_its_share_at_every_moment(shares: tuple[float, ...]) -> None:
    sources, places = deal(np.arange(20_000), shares)
    for source, share in enumerate(shares):
        counts = np.cumsum(sources == source)
        assert np.abs(counts - share * np.arange(1, 20_001)).max() < len(shares)
        assert np.array_equal(places[sources == source], np.arange(counts[-1]))


def test_far_positions_are_dealt_by_themselves() -> None:
    shares = (0.37, 0.5, 0.13)
    for start in (0, 12_345, 2**32):
        sources, places = deal(np.arange(start, start + 500), shares)
        again = [deal(np.array([start + n]), shares) for n in range(500)]
        assert sources.tolist() == [one.item() for one, _ in again]
        assert places.tolist() == [one.item() for _, one in again]
        assert np.abs(places - np.array(shares)[sources] * np.arange(start, start + 500)).max() < 5


def test_each_source_has_epochs_of_its_own() -> None:
    sampler = Sampler(10, (Extent(30), Extent(7)), (0.75, 0.25), 5)
    steps = [sampler.step(n) for n in range(16)]
    sources = np.concatenate([step.sources for step in steps])
    blocks = np.concatenate([step.blocks for step in steps])
    for source, size in ((0, 30), (1, 7)):
        mine = blocks[sources == source]
        epochs = mine[: len(mine) // size * size].reshape(-1, size)
        assert len(epochs) > 3
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs.tolist())
