"""Reads each step's blocks ahead of the device, in a thread."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from training.data.sampler import Batch, Sampler
from training.losses.divergences import TopK
from training.teacher.stored_logits import TeacherLogits

AHEAD = 2
"""This number of steps is read before they are needed."""


class Readable(Protocol):
    """Blocks that are read by their numbers: an array of shape [N, T], or what acts like one."""

    def __getitem__(self, numbers: Any, /) -> NDArray[Any]: ...


@dataclass(frozen=True)
class LocalBatch:
    """A worker's part of a step.

    Attributes:
        batch: numbers of the whole step's blocks.
        rows: token ids of the worker's blocks, shape [b, T].
        teacher: a teacher's stored logits at their b * (T-1) targets; None without them.
        digest: hash of the rows, see `digest`.
        waited: seconds that the loop waited for the local batch.
    """

    batch: Batch
    rows: NDArray[np.int64]
    teacher: TopK | None
    digest: int
    waited: float


class Prefetch:
    """Reads the local batches of a worker, one step after the other; a context manager.

    Workers are numbered from 0. `teacher_logits` are a teacher's stored logits of the same text.
    """

    def __init__(
        self,
        sampler: Sampler,
        texts: Sequence[Readable],
        *,
        rank: int,
        workers: int,
        steps: range,
        teacher_logits: TeacherLogits | None = None,
    ) -> None:
        self._sampler, self._texts, self._teacher = sampler, texts, teacher_logits
        self._rank, self._workers, self._steps = rank, workers, steps
        self._read: queue.Queue[LocalBatch | Exception] = queue.Queue(AHEAD)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read_ahead, name="prefetch", daemon=True)

    def __enter__(self) -> Iterator[LocalBatch]:
        self._thread.start()
        return self._local_batches()

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def _local_batches(self) -> Iterator[LocalBatch]:
        for _ in self._steps:
            began = time.perf_counter()
            local_batch = self._read.get()
            if isinstance(local_batch, Exception):
                raise local_batch
            yield replace(local_batch, waited=time.perf_counter() - began)

    def _read_ahead(self) -> None:
        try:
            for step in self._steps:
                self._put(self._local_batch(step))
        except Exception as error:  # for the loop to raise
            self._put(error)

    def _put(self, local_batch: LocalBatch | Exception) -> None:
        while not self._closed.is_set():
            try:
                return self._read.put(local_batch, timeout=1)
            except queue.Full:
                continue

    def _local_batch(self, step: int) -> LocalBatch:
        batch = self._sampler.step(step)
        share = batch.share(self._rank, self._workers)
        rows = read_rows(self._texts, share)
        teacher = None if self._teacher is None else self._teacher.top_k(rows)
        return LocalBatch(batch, rows, teacher, digest(rows), 0.0)


def read_rows(texts: Sequence[Readable], batch: Batch) -> NDArray[np.int64]:
    """The blocks of a batch, or of a part of one, shape [B, T]."""
    rows_by_source = [
        (np.flatnonzero(batch.sources == source), text) for source, text in enumerate(texts)
    ]
    parts = [(places, text[batch.blocks[places]]) for places, text in rows_by_source if len(places)]
    rows = np.empty((len(batch.blocks), parts[0][1].shape[1]), np.int64)
    for places, blocks in parts:
        rows[places] = blocks
    return rows


def digest(rows: NDArray[np.int64]) -> int:
    """A 64-bit hash of blocks in which their order does not count.

    It is the sum of the blocks' own hashes, wrapped to 64 bits with a sign: the digests of all
    workers' rows add up to that of the batch, whoever read which block.

    Args:
        rows: token ids, shape [B, T].
    """
    hashes = (hashlib.blake2b(row.astype("<i4").tobytes(), digest_size=8).digest() for row in rows)
    total = sum(int.from_bytes(block, "little") for block in hashes)
    return (total + 2**63) % 2**64 - 2**63
