from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evo.model import checkpoint
from tests.support import tiny_checkpoints
from training.loop.parallel import Execution
from training.setup.memory import MemoryDemand, NetworkSizes

GIB = 2**30
SMALL = NetworkSizes(parameters=410_000_000, root=103_000_000, block=12_800_000)
LARGE = NetworkSizes(parameters=6_900_000_000, root=413_000_000, block=203_000_000)
WAYS = tuple(
    Execution(parallel, shard_teacher, each)
    for shard_teacher in (False, True)
    for parallel, each in (("ddp", False), ("fsdp", False), ("fsdp", True))
)


def demand(student: NetworkSizes, teacher: NetworkSizes | None = None) -> MemoryDemand:
    ways = WAYS if teacher else WAYS[:3]
    return MemoryDemand(student, teacher, 2, 8 * GIB, ways)


@pytest.mark.parametrize("make", [tiny_checkpoints.neox, tiny_checkpoints.llama])
def test_sizes_are_those_of_the_network(make, tmp_path: Path) -> None:
    stored = checkpoint.load(make(tmp_path))
    model = stored.model()
    blocks = [sum(p.numel() for p in block.parameters()) for block in model.transformer.h]
    every = sum(p.numel() for p in model.parameters())
    assert NetworkSizes.of(stored) == NetworkSizes(every, every - sum(blocks), max(blocks))


def test_states_are_what_adamw_holds() -> None:
    weight = torch.nn.Parameter(torch.randn(100, 10))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    state = optimizer.state[weight]
    held = [weight, weight.grad, state["exp_avg"], state["exp_avg_sq"]]
    without = MemoryDemand(NetworkSizes(1000, 0, 0), None, 4, 0, WAYS[:3])
    assert without.needed(Execution(), 1) == sum(t.numel() * t.element_size() for t in held)


def test_what_fits_is_not_sharded() -> None:
    assert demand(SMALL).choose(8, 80 * GIB) == Execution("ddp")
    assert demand(SMALL, LARGE).choose(8, 80 * GIB) == Execution("ddp")


def test_a_student_that_does_not_fit_is_sharded() -> None:
    assert demand(LARGE).choose(8, 80 * GIB) == Execution("fsdp")
    assert demand(LARGE).choose(8, 48 * GIB) == Execution("fsdp", reduce_each=True)


def test_a_teacher_that_does_not_fit_beside_the_student_is_sharded() -> None:
    assert demand(SMALL, LARGE).choose(8, 24 * GIB) == Execution("ddp", shard_teacher=True)


def test_where_nothing_fits_the_smallest_is_tried() -> None:
    assert demand(LARGE, LARGE).choose(2, GIB) == Execution("fsdp", True, True)
    assert demand(LARGE).choose(1, GIB) == Execution("ddp")


def test_more_workers_need_less_each_once_sharded() -> None:
    needed = [demand(LARGE, LARGE).needed(WAYS[-1], workers) for workers in (2, 4, 8, 16)]
    assert needed == sorted(needed, reverse=True)
    assert len({demand(LARGE).needed(Execution(), workers) for workers in (2, 4)}) == 1
