"""How important a teacher's layers, channels, query groups and neurons are.

`activation`: how much a unit contributes to what reads it, on real text: the mean size of its
activation times the norm of the weights that read it. (Minitron, arXiv 2407.14679, section 2.2,
ranks by the activation alone; the weights make it independent of how the two are scaled.) A layer
counts by how much the loss grows when it is dropped.

`magnitude`: the same from the norms of the weights alone, without text.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evo.genome.cost import Architecture, forward_flops
from evo.genome.importance_proxy import Importance
from evo.genome.subnet import Widths
from evo.model.layerwise_gpt import hidden_states
from evo.model.litgpt import GPT, Block
from evo.model.nll import summed_nll

SEQUENCES = 128
"""Sequences of text over which activations are averaged."""

LAYER_SEQUENCES = 32
"""Sequences on which the loss without each layer is measured."""


@torch.inference_mode()
def importance_by_magnitude(model: GPT) -> Importance:
    """By the norms of weights that write and read a unit."""
    layers, groups, neurons = [], [], []
    channels = torch.zeros(model.config.n_embd, device=model.lm_head.weight.device)
    for block in model.transformer.h:
        read, write = _norms(block.attn.proj, 0), _norms(block.attn.qkv, 1)
        queries, keys, values = _split_heads(write**2, block)
        groups.append((_by_group(read**2, block) * (queries + keys + values)).sqrt())
        neurons.append(_norms(block.mlp.proj, 0) * _neuron_inputs(block))
        layers.append(block.attn.proj.weight.norm() * block.mlp.proj.weight.norm())
        for matrix in _readers(block):
            channels += _norms(matrix, 0)
        for matrix in (block.attn.proj, block.mlp.proj):
            channels += _norms(matrix, 1)
    channels += _norms(model.lm_head, 0) + model.transformer.wte.weight.float().norm(dim=0)
    return _importance(layers, channels, groups, neurons)


@torch.inference_mode()
def importance_by_activation(
    model: GPT, blocks: NDArray[np.int32], micro_batch: int = 8
) -> Importance:
    """By contributions on text.

    Args:
        model: the teacher.
        blocks: token ids, shape [N, T]; `SEQUENCES` of them, evenly spread, are used.
        micro_batch: sequences that run at once.
    """
    sizes = _mean_activations(model, spread_over(blocks, SEQUENCES), micro_batch)
    groups, neurons = [], []
    channels = sizes[model.transformer.ln_f] * _norms(model.lm_head, 0)
    for block in model.transformer.h:
        heads = sizes[block.attn.proj] * _norms(block.attn.proj, 0)
        groups.append(_by_group(heads, block))
        neurons.append(sizes[block.mlp.proj] * _norms(block.mlp.proj, 0))
        for matrix in _readers(block):
            channels = channels + sizes[matrix] * _norms(matrix, 0)
    layers = _costs_of_dropping(model, spread_over(blocks, LAYER_SEQUENCES), micro_batch)
    return _importance(layers, channels, groups, neurons)


def activation_flops(architecture: Architecture, sequences: int, length: int) -> int:
    """What `importance_by_activation` costs on so many sequences of so many tokens, in FLOPs."""
    widths = architecture.full_widths
    few = min(sequences, LAYER_SEQUENCES)
    shorter = Widths(widths.channels, widths.groups[1:], widths.neurons[1:])
    once = min(sequences, SEQUENCES) * forward_flops(architecture, widths, length)
    base = few * forward_flops(architecture, widths, length)
    again = few * forward_flops(architecture, shorter, length)
    return length * (once + base + widths.layers * again)


def _mean_activations(
    model: GPT, blocks: NDArray[np.int32], micro_batch: int
) -> dict[nn.Module, Tensor]:
    """The mean absolute input of every matrix in the blocks, and output of the final norm."""
    sums: dict[nn.Module, Tensor] = defaultdict(lambda: torch.zeros(()))

    def add(module: nn.Module, activation: Tensor) -> None:
        total = activation.float().abs().flatten(0, -2).sum(0)
        sums[module] = sums[module].to(total.device) + total

    handles = [model.transformer.ln_f.register_forward_hook(lambda m, _, out: add(m, out))]
    for block in model.transformer.h:
        for matrix in (*_readers(block), block.attn.proj, block.mlp.proj):
            handles.append(matrix.register_forward_pre_hook(lambda m, inputs: add(m, inputs[0])))
    try:
        for start in range(0, len(blocks), micro_batch):
            rows = torch.from_numpy(blocks[start : start + micro_batch].astype(np.int64))
            hidden_states(model, rows.to(model.lm_head.weight.device))
    finally:
        for handle in handles:
            handle.remove()
    return {module: total / blocks.size for module, total in sums.items()}


def _costs_of_dropping(model: GPT, blocks: NDArray[np.int32], micro_batch: int) -> list[Tensor]:
    """By how much the summed NLL grows without each layer."""

    def measured() -> Tensor:
        return torch.tensor(summed_nll(model, blocks, micro_batch=micro_batch).sum())

    base, costs = measured(), []
    every = model.transformer.h
    try:
        for index in range(len(every)):
            model.transformer.h = nn.ModuleList([b for i, b in enumerate(every) if i != index])
            costs.append(measured() - base)
    finally:
        model.transformer.h = every
    return costs


def _importance(
    layers: list[Tensor], channels: Tensor, groups: list[Tensor], neurons: list[Tensor]
) -> Importance:
    as_array = partial(np.asarray, dtype=np.float64)
    return Importance(
        layers=as_array([float(value) for value in layers]),
        channels=as_array(channels.detach().cpu()),
        groups=as_array(torch.stack(groups).detach().cpu()),
        neurons=as_array(torch.stack(neurons).detach().cpu()),
    )


def spread_over(blocks: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """At most this number of the blocks, evenly spaced."""
    if len(blocks) <= count:
        return blocks
    return blocks[np.linspace(0, len(blocks) - 1, count).astype(np.int64)]


def _norms(matrix: nn.Linear, dimension: int) -> Tensor:
    """Norms of a matrix's columns (0: by what it reads) or rows (1: by what it writes)."""
    return matrix.weight.detach().float().norm(dim=dimension)


def _readers(block: Block) -> list[nn.Linear]:
    """The matrices of a block that read the residual channels."""
    names = ("fc",) if hasattr(block.mlp, "fc") else ("fc_1", "fc_2")
    return [block.attn.qkv, *(getattr(block.mlp, name) for name in names)]


def _neuron_inputs(block: Block) -> Tensor:
    product = torch.ones((), device=block.mlp.proj.weight.device)
    for matrix in _readers(block)[1:]:
        product = product * _norms(matrix, 1)
    return product


def _by_group(values: Tensor, block: Block) -> Tensor:
    """Sum over the channels of each query group's heads."""
    return values.view(block.config.n_query_groups, -1).sum(1)


def _split_heads(rows: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the rows of the query, key and value projections, by query group."""
    config = block.config
    queries = config.n_head * config.head_size
    keys = config.n_query_groups * config.head_size
    parts = rows.split((queries, keys, keys))
    return tuple(_by_group(part, block) for part in parts)  # type: ignore[return-value]
