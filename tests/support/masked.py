"""A teacher with a part of it masked: an independent reference for what a subnet computes."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from litgpt.model import GPT
from torch import Tensor, nn

from evo.genome.subnet import Subnet


class NormOfSome(nn.Module):
    """A norm whose statistics are those of the kept channels; the others are zero after it."""

    def __init__(self, norm: nn.Module, kept: np.ndarray) -> None:
        super().__init__()
        self.kept = torch.from_numpy(np.flatnonzero(kept))
        self.norm = deepcopy(norm)
        if isinstance(norm, nn.LayerNorm):
            self.norm.normalized_shape = (len(self.kept),)
        for name, parameter in norm.named_parameters():
            setattr(self.norm, name, nn.Parameter(parameter[self.kept]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x).index_copy(-1, self.kept, self.norm(x[..., self.kept]))


@torch.no_grad()
def masked(teacher: GPT, subnet: Subnet) -> GPT:
    """A copy of litgpt's own network, all of its layers in place, without what a subnet drops.

    Dropped layers leave the residual stream as it is; output columns of dropped groups and neurons
    are zero, and so is all that is written to dropped channels.
    """
    model: Any = deepcopy(teacher)
    config = model.config
    # What litgpt scales embeddings by is the root of a network's channels.
    model.config = replace(config, n_embd=int(subnet.channels.sum()))
    dropped = torch.from_numpy(~subnet.channels)
    model.transformer.wte.weight[:, dropped] = 0
    model.lm_head.weight[:, dropped] = 0
    model.transformer.ln_f = NormOfSome(model.transformer.ln_f, subnet.channels)
    rows = config.head_size * config.n_head // config.n_query_groups
    for index, block in enumerate(model.transformer.h):
        if not subnet.layers[index]:
            block.forward = lambda x, *_: x
            continue
        for name in ("norm_1", "norm_2", "post_attention_norm", "post_mlp_norm"):
            if isinstance(norm := getattr(block, name), nn.Identity | None):
                continue
            setattr(block, name, NormOfSome(norm, subnet.channels))
        queries = np.repeat(subnet.groups[index], rows)
        for matrix, kept in (
            (block.attn.proj, queries),
            (block.mlp.proj, subnet.neurons[index]),
        ):
            matrix.weight[:, torch.from_numpy(~kept)] = 0
            matrix.weight[dropped] = 0
            if matrix.bias is not None:
                matrix.bias[dropped] = 0
        if config.norm_qk and config.norm_qk_type == "olmo2":
            keys = np.repeat(subnet.groups[index], config.head_size)
            block.attn.norm_q = NormOfSome(block.attn.norm_q, queries)
            block.attn.norm_k = NormOfSome(block.attn.norm_k, keys)
    return model
