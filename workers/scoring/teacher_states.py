"""The teacher's side of a divergence: run once per shard, kept in bounded memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evo.model.kl import Divergence, TeacherStates, teacher_states
from evo.model.layerwise_gpt import tie, without_idle_windows
from evo.model.litgpt import GPT, Block
from evo.model.network import HEAD, Network


class TeacherCache:
    """What the teacher says of each shard of a text.

    The first shards that are asked for are kept while there is room, all others made anew each
    time: rungs ask for the first ones most, and whoever goes through all of them again and again
    would find nothing in a cache of the latest.

    Attributes:
        teacher: the network, whose blocks have weights only while they run.
    """

    def __init__(
        self,
        teacher: GPT,
        blocks: NDArray[np.integer],
        divergence: Divergence,
        capacity: int,
    ) -> None:
        """Runs nothing yet.

        The teacher is on the device where it is to run; the blocks are token ids, shape [N, T]; the
        capacity is in bytes.
        """
        self.teacher = teacher
        self._blocks, self._divergence, self._capacity = blocks, divergence, capacity
        self._device = teacher.lm_head.weight.device
        self._kept: dict[tuple[int, int], TeacherStates] = {}

    @property
    def kept(self) -> tuple[tuple[int, int], ...]:
        """The shards in memory, as rows."""
        return tuple(self._kept)

    def states(self, rows: tuple[int, int], micro_batch: int) -> TeacherStates:
        """The states of a shard, whose rows are its first block and the one after its last."""
        if rows in self._kept:
            return self._kept[rows]
        states = teacher_states(
            self.teacher, self._blocks[slice(*rows)], self._divergence, micro_batch
        )
        if states.nbytes + sum(kept.nbytes for kept in self._kept.values()) <= self._capacity:
            self._kept[rows] = states.pinned() if self._device.type == "cuda" else states
        return states


def shared_model(
    network: Network,
    *,
    dtype: torch.dtype,
    device: str,
    sequence_length: int,
) -> GPT:
    """The teacher as a network that copies no weights which are in place already.

    A block's weights are fetched when it runs and let go after, so that a teacher runs which is
    larger than the device, or is stored in another dtype: there is room for one block.
    `sequence_length` is the longest sequence that it is to see.
    """
    with torch.device("meta"):
        model = GPT(network.config).requires_grad_(False)
    outside = {
        name: tensor.to(device, dtype)
        for name, tensor in network.weights.items()
        if not name.startswith("transformer.h.") and not (network.tied and name == HEAD)
    }
    model.load_state_dict(outside, strict=False, assign=True)
    if network.tied:
        tie(model)

    def fetch(prefix: str, block: Block, _: Any) -> None:
        names = [name for name, _ in block.named_parameters()]
        own = {name: network.weights[prefix + name].to(device, dtype) for name in names}
        block.load_state_dict(own, assign=True)

    def let_go(block: Block, *_: Any) -> None:
        block.to("meta")

    for index, block in enumerate(model.transformer.h):
        block.register_forward_pre_hook(partial(fetch, f"transformer.h.{index}."))
        block.register_forward_hook(let_go)
    model.max_seq_length = sequence_length
    model.cos, model.sin = model.rope_cache(device=torch.device(device))
    return without_idle_windows(model, sequence_length).eval()
