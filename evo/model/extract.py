"""Cut a subnet out of a teacher: a standalone network with the kept weights.

Nothing is rescaled or permuted: a kept weight is the teacher's. Grouped-query teachers lose whole
query groups, so that keys, values and their queries stay together. The head size is the teacher's,
or every head keeps its leading rotary pairs and the leading ones of its other channels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from evo.genome.subnet import Mask, Subnet
from evo.model.layerwise_gpt import build, config_of_layers, tie, without_idle_windows
from evo.model.litgpt import GPT, Config
from evo.model.network import EMBEDDING, HEAD, Network


def extract(
    teacher: Network,
    subnet: Subnet,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    sequence_length: int | None = None,
    copy: bool = True,
) -> GPT:
    """The network that a subnet keeps, in evaluation mode.

    Args:
        teacher: a uniform network, whose weights are only read.
        subnet: masks over this teacher.
        dtype: of the network's weights.
        device: where the network is put.
        sequence_length: the longest sequence it is to see; by default the teacher's block size,
            whose rotary table may be large.
        copy: whether a weight that is kept whole is copied; if not, it is the teacher's own, which
            nobody may write to.
    """
    config, weights = teacher.config, teacher.weights
    with torch.device("meta"):
        model = build(config_of_layers(config, subnet.layers), subnet.widths)
    kept_layers = np.flatnonzero(subnet.layers)
    for name, _ in list(model.named_parameters()):
        if teacher.tied and name == HEAD:
            continue
        source, keep = _cut(name, config, subnet, kept_layers)
        tensor = weights[source]
        for dimension, indices in enumerate(keep):
            if indices is not None and len(indices) < tensor.size(dimension):
                chosen = torch.from_numpy(indices).to(tensor.device)
                tensor = tensor.index_select(dimension, chosen)
        if copy and torch.device(device).type == "cuda" and not tensor.is_cuda:
            tensor = tensor.to(dtype).pin_memory()  # copied to the GPU without waiting for it
        whole = tensor is weights[source]  # as the teacher's own tensor
        tensor = tensor.to(device, dtype, copy=copy and whole, non_blocking=tensor.is_pinned())
        owner, _, attribute = name.rpartition(".")
        parameter = nn.Parameter(tensor, requires_grad=False)
        setattr(model.get_submodule(owner), attribute, parameter)
    if teacher.tied:
        tie(model)
    model.max_seq_length = sequence_length or config.block_size
    model.cos, model.sin = model.rope_cache(device=torch.device(device))
    return without_idle_windows(model, model.max_seq_length).requires_grad_(True).eval()


def _indices(mask: Mask) -> np.ndarray | None:
    return None if mask.all() else np.flatnonzero(mask)


def kept_of_head(config: Config, head_size: int | None) -> Mask:
    """Which channels of a query, key or value head stay, shape [the teacher's head size].

    A head's first n channels are rotary. litgpt rotates pair i of them as channels i and i + n/2,
    or 2i and 2i + 1 where they are interleaved.
    """
    if head_size is None:
        return np.ones(config.head_size, np.bool_)
    rotary = config.rope_n_elem
    kept = rotary * head_size // config.head_size
    mask = np.zeros(config.head_size, np.bool_)
    mask[rotary : rotary + head_size - kept] = True
    if config.rope_interleave:
        mask[:kept] = True
    else:
        mask[: kept // 2] = mask[rotary // 2 : (rotary + kept) // 2] = True
    return mask


def _rows_of(heads: Mask, head: Mask) -> Mask:
    """The kept rows of all heads: of each kept head, what is kept of a head."""
    return np.outer(heads, head).ravel()


def _cut(
    name: str, config: Config, subnet: Subnet, kept_layers: np.ndarray
) -> tuple[str, tuple[np.ndarray | None, ...]]:
    """The teacher's name of a parameter, and the kept indices along each of its dimensions."""
    channels = _indices(subnet.channels)
    if not name.startswith("transformer.h."):
        if name == "lm_head.bias":
            return name, (None,)
        if name.startswith("transformer.ln_f."):
            return name, (channels,)
        if name in (EMBEDDING, HEAD):
            return name, (None, channels)
        raise ValueError(f"the parameter {name} cannot be cut: it is not known")

    _, _, position, part = name.split(".", 3)
    layer = int(kept_layers[int(position)])
    source = f"transformer.h.{layer}.{part}"
    neurons = _indices(subnet.neurons[layer])
    groups = subnet.groups[layer]
    head = kept_of_head(config, subnet.head_size)
    keys = _rows_of(groups, head)
    queries = _rows_of(np.repeat(groups, config.n_head // config.n_query_groups), head)
    module, _, kind = part.rpartition(".")
    if module == "attn.qkv":
        rows = _indices(np.concatenate([queries, keys, keys]))
        return source, (rows, channels) if kind == "weight" else (rows,)
    if module == "attn.proj":
        return source, (channels, _indices(queries)) if kind == "weight" else (channels,)
    if module in ("attn.norm_q", "attn.norm_k"):
        if config.norm_qk_type != "olmo2":
            return source, (_indices(head),)
        return source, (_indices(queries if module == "attn.norm_q" else keys),)
    if module in ("mlp.fc", "mlp.fc_1", "mlp.fc_2"):
        return source, (neurons, channels) if kind == "weight" else (neurons,)
    if module == "mlp.proj":
        return source, (channels, neurons) if kind == "weight" else (channels,)
    if module in ("norm_1", "norm_2", "post_attention_norm", "post_mlp_norm"):
        return source, (channels,)
    raise ValueError(f"the parameter {name} cannot be cut: it is not known")
