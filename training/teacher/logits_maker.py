"""Compute a teacher's likeliest tokens, and write them as shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from evo.data.token_shards import Blocks
from evo.storage.checksums import Summed, checksum
from evo.storage.files import atomic_file
from training.teacher.network import load_teacher, teacher_top_k
from training.teacher.stored_logits import LogitsSettings, Tokens, block_hashes, id_dtype


class LogitsMaker:
    """Holds the teacher and makes shards, as a Ray actor."""

    def __init__(
        self,
        teacher: Path,
        settings: LogitsSettings,
        blocks: Sequence[Tokens | Blocks],
        on_gpu: bool,
        micro_batch: int,
        threads: int,
    ) -> None:
        """Load the teacher.

        The blocks are token ids of each source, shape [N, T].
        """
        if not on_gpu:
            torch.set_num_threads(threads)
        self._device = torch.device("cuda" if on_gpu else "cpu")
        self._teacher = load_teacher(teacher, settings.precision, settings.sequence_length).to(
            self._device
        )
        self._settings, self._micro_batch = settings, micro_batch
        self._blocks = blocks

    def make(self, path: Path, number: int) -> Summed:
        """Write a shard.

        Raises:
            UserError: the shard cannot be written.
        """
        size = self._settings.blocks_per_shard
        tensors = self._tensors(rows_of(self._blocks, range(number * size, (number + 1) * size)))
        with atomic_file(path) as temporary:
            save_file(tensors, temporary)
            return Summed(path.name, temporary.stat().st_size, checksum(temporary))

    def _tensors(self, blocks: Tokens) -> dict[str, Any]:
        settings = self._settings
        shape = (len(blocks), settings.sequence_length - 1)
        values = np.empty((*shape, settings.top_k), settings.dtype)
        ids = np.empty((*shape, settings.top_k), id_dtype(settings.vocabulary))
        rest = np.empty(shape, np.float32)
        autocast = torch.autocast(
            self._device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"
        )
        for start in range(0, len(blocks), self._micro_batch):
            part = slice(start, start + self._micro_batch)
            tokens = torch.from_numpy(blocks[part].astype(np.int64)).to(self._device)
            with autocast:
                top_k = teacher_top_k(
                    self._teacher, tokens, vocabulary=settings.vocabulary, k=settings.top_k
                )
            for stored, computed in zip((values, ids, rest), top_k, strict=True):
                stored[part] = computed.cpu().numpy().reshape(stored[part].shape)
        return {
            "block": block_hashes(blocks),
            "log_probability": values,
            "ids": ids,
            "log_rest": rest,
        }


def rows_of(sources: Sequence[Tokens | Blocks], numbers: range) -> Tokens:
    """Blocks by their numbers, counted through all sources; shape [n, T].

    Args:
        sources: token ids of each source, shape [N, T].
        numbers: numbers of the blocks; those beyond the last block are left out.
    """
    parts, start = [], 0
    for blocks in sources:
        first, last = (min(max(n - start, 0), len(blocks)) for n in (numbers.start, numbers.stop))
        parts.append(blocks[first:last])
        start += len(blocks)
    return np.concatenate(parts)
