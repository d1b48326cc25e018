"""How a run's networks are spread over its workers, and how they compute.

These choices change the result by rounding alone, so a run may go on with others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from evo.errors import UserError, first_line
from evo.model.litgpt import GPT
from training.loop.student import Student
from training.teacher.network import TeacherNetwork


@dataclass(frozen=True)
class WorkerProcess:
    """A worker's place among all workers, whose process group is made already.

    Attributes:
        rank: the worker's number, from 0; worker 0 writes.
        workers: number of workers.
        device: the device on which the worker computes.
    """

    rank: int
    workers: int
    device: torch.device


@contextmanager
def process_group(rank: int, workers: int, store: str) -> Iterator[None]:
    """A process group on the CPU, for workers that Ray Train did not start.

    Args:
        rank: the worker's number, from 0.
        workers: number of workers.
        store: path of a file, not yet there, by which the workers find each other.
    """
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=workers
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Execution:
    """How the networks are spread and computed.

    Attributes:
        parallel: every worker holds the student (ddp), or a part of it (fsdp), and gathers the rest
            block by block.
        shard_teacher: whether each worker holds only a part of the teacher.
        reduce_each: with fsdp, whether gradients are added up over the workers after each
            micro-batch and not once a step, so that no worker ever holds all of them.
        activation_checkpointing: whether blocks keep only their inputs, and run again in the
            backward pass.
        compile: whether blocks run through torch.compile.
    """

    parallel: Literal["ddp", "fsdp"] = "ddp"
    shard_teacher: bool = False
    reduce_each: bool = False
    activation_checkpointing: bool = False
    compile: bool = False


def spread_student(
    student: Student,
    process: WorkerProcess,
    execution: Execution,
    precision: Literal["float32", "bfloat16"],
) -> nn.Module:
    """Put a student where it trains.

    The student is on the CPU, the same on all workers.

    Returns:
        The module to call in training: the student itself, or a wrapper of it.

    Raises:
        UserError: torch.compile does not work here.
    """
    if execution.compile:
        compile_blocks(student.model, process.device)
    if execution.activation_checkpointing:
        for block in student.model.transformer.h:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if execution.parallel == "fsdp":
        shard(student, process, precision, torch.float32)
        register_fsdp_forward_method(student, "summed_nll")
        return student
    student.to(process.device)
    if process.workers == 1:
        return student
    # The only buffers, the rotary tables, are the same everywhere.
    return DistributedDataParallel(student, gradient_as_bucket_view=True, broadcast_buffers=False)


def shard(
    network: Student | TeacherNetwork,
    process: WorkerProcess,
    precision: Literal["float32", "bfloat16"],
    dtype: torch.dtype,
) -> None:
    """Leave each worker its part of a network by FSDP2 (Zhao et al. 2023), block by block.

    Weights may be mapped files, as `Checkpoint.mapped_model` has them; no more than a block of them
    is ever copied into a worker's memory or its device's.

    The part outside the blocks (embedding, last norm, head) is gathered for the whole of a forward
    and backward pass, because the loss uses the head's weights by themselves. In bfloat16, blocks
    are gathered in that, where autocast would cast them to it in any case; the parts themselves,
    gradients as they are added up, and the residual stream stay in float32. (Autocast leaves the
    norms' weights, a few thousandths of all, in float32: gathered, these are rounded too.) The
    network is on the CPU; `precision` is that of its matrix products, `dtype` that of its weights.
    """
    if process.device.type == "cuda":
        torch.cuda.set_device(process.device)
    mesh = init_device_mesh(process.device.type, (process.workers,))
    has_layer_norm = any(isinstance(module, nn.LayerNorm) for module in network.model.modules())
    # The CPU's LayerNorm takes no bfloat16 weights for a float32 input.
    needs_float32 = process.device.type == "cpu" and has_layer_norm
    gathered = torch.bfloat16 if precision == "bfloat16" and not needs_float32 else None
    for block in network.model.transformer.h:
        policy = MixedPrecisionPolicy(gathered, torch.float32, cast_forward_inputs=False)
        _cast_parameters(block, dtype)
        fully_shard(block, mesh=mesh, mp_policy=policy)
    _cast_parameters(network, dtype)
    fully_shard(network, mesh=mesh)


def _cast_parameters(module: nn.Module, dtype: torch.dtype) -> None:
    for parameter in module.parameters():
        if parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)


@contextmanager
def synchronised(network: nn.Module, now: bool) -> Iterator[None]:
    """Let a backward pass add gradients up over the workers, or leave that to a later one.

    `network` is the module that `spread_student` returns.
    """
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(now)
    if isinstance(network, DistributedDataParallel) and not now:
        with network.no_sync():
            yield
    else:
        yield


def clip_gradients(model: GPT, most: float) -> Tensor:
    """Scale gradients down to a norm over all workers' parts.

    Returns:
        The norm before scaling, a scalar on the device.
    """
    norm = nn.utils.clip_grad_norm_(model.parameters(), most)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def compile_blocks(model: GPT, device: torch.device) -> None:
    """Compile blocks one by one: equal blocks share their code, and FSDP's hooks stay outside.

    Raises:
        UserError: torch.compile does not work here.
    """
    from torch._dynamo import config  # takes seconds to import
    from torch._dynamo.exc import TorchDynamoException

    try:
        torch.compile(_probe)(torch.ones(8, device=device))
    except TorchDynamoException as error:
        raise UserError(f"--compile does not work here: {first_line(error)}") from error
    # Otherwise torch would give up after eight different blocks, and run the others uncompiled.
    config.recompile_limit += 2 * len(model.transformer.h)
    for block in model.transformer.h:
        block.forward = torch.compile(block.forward)


def _probe(x: Tensor) -> Tensor:
    return x.exp() + 1


@contextmanager
def uncompiled() -> Iterator[Any]:
    """Run compiled blocks as they were written."""
    with torch.compiler.set_stance("force_eager"):
        yield
