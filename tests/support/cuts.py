"""Cutting weights by hand, as an independent reference for extraction."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from evo.genome.subnet import Dimensions, Subnet


def random_subnet(dimensions: Dimensions, rng: np.random.Generator, *, uniform: bool) -> Subnet:
    """Any index sets; uniform: the same number of groups and neurons in each layer."""
    d = dimensions

    def mask(size: int, kept: int | None = None) -> np.ndarray:
        kept = int(rng.integers(1, size + 1)) if kept is None else kept
        chosen = np.zeros(size, np.bool_)
        chosen[rng.choice(size, kept, replace=False)] = True
        return chosen

    groups, neurons = (
        int(rng.integers(1, n + 1)) if uniform else None for n in (d.groups, d.neurons)
    )
    return Subnet(
        layers=mask(d.layers, int(rng.integers(2, d.layers + 1))),
        channels=mask(d.channels),
        groups=np.stack([mask(d.groups, groups) for _ in range(d.layers)]),
        neurons=np.stack([mask(d.neurons, neurons) for _ in range(d.layers)]),
    )


def take(
    weights: dict[str, Tensor],
    *,
    head_size: int,
    queries_per_group: int,
    layers: np.ndarray,
    channels: np.ndarray,
    groups: list[np.ndarray],
    neurons: list[np.ndarray],
) -> dict[str, Tensor]:
    """Rows and columns of transformers' tensors, in the given order.

    Args:
        weights: of a model that transformers calls Llama, Qwen2, Qwen3, Olmo2 or GPTNeoX.
        head_size: channels of a head.
        queries_per_group: query heads of one key and value head.
        layers: indices of the kept layers.
        channels: indices of residual channels.
        groups: of each kept layer, indices of key and value heads.
        neurons: of each kept layer, indices of MLP neurons.
    """
    taken = {}
    for name, tensor in weights.items():
        head, found, rest = name.partition(".layers.")
        if not found:
            axis = 0 if "norm" in name else 1
            taken[name] = tensor.index_select(axis, as_tensor(channels))
            continue
        number, part = rest.split(".", 1)
        if int(number) not in layers:
            continue
        position = layers.tolist().index(int(number))
        g = groups[position]
        heads = (g[:, None] * queries_per_group + np.arange(queries_per_group)).ravel()
        queries, keys = rows_of(heads, head_size), rows_of(g, head_size)
        axes = axes_of(part, channels, queries, keys, neurons[position], head_size, tensor)
        for axis, indices in enumerate(axes):
            if indices is not None:
                tensor = tensor.index_select(axis, as_tensor(indices))
        taken[f"{head}.layers.{position}.{part}"] = tensor
    return taken


def axes_of(
    part: str,
    channels: np.ndarray,
    queries: np.ndarray,
    keys: np.ndarray,
    neurons: np.ndarray,
    head_size: int,
    tensor: Tensor,
) -> tuple[np.ndarray | None, ...]:
    """The kept indices along each dimension of a tensor of a layer; None keeps all."""
    module, kind = part.rsplit(".", 2)[-2:]
    if module == "query_key_value":  # of each head: its query, key and value rows
        into, out = rows_of(queries[::head_size] // head_size, 3 * head_size), channels
    elif module == "q_proj":
        into, out = queries, channels
    elif module in ("k_proj", "v_proj"):
        into, out = keys, channels
    elif module in ("o_proj", "dense"):
        into, out = channels, queries
    elif module in ("gate_proj", "up_proj", "dense_h_to_4h"):
        into, out = neurons, channels
    elif module in ("down_proj", "dense_4h_to_h"):
        into, out = channels, neurons
    elif module in ("q_norm", "k_norm"):  # over one head (Qwen3), or over all (OLMo 2)
        of_heads = queries if module == "q_norm" else keys
        into, out = None if len(tensor) == head_size else of_heads, None
    else:
        into, out = channels, None
    return (into, out) if kind == "weight" and tensor.dim() == 2 else (into,)


def rows_of(indices: np.ndarray, size: int) -> np.ndarray:
    """The rows of blocks of `size` rows each."""
    return (indices[:, None] * size + np.arange(size)).ravel()


def as_tensor(indices: np.ndarray) -> Tensor:
    """For `index_select`."""
    return torch.from_numpy(np.ascontiguousarray(indices)).long()
