"""Random weights to start from."""

from __future__ import annotations

from math import sqrt

import torch
from torch import nn

from evo.model.litgpt import GPT


@torch.no_grad()
def initialise(model: GPT, generator: torch.Generator) -> None:
    """Give a network random weights, in GPT-NeoX's way (Black et al. 2022, section 3).

    Weights are normal with standard deviation sqrt(2 / (5 d)) (Nguyen and Salazar 2019), but
    2 / (L sqrt(d)) in the projections that add to the residual stream (Wang and Komatsuzaki 2021),
    with d channels and L blocks. Biases are 0, norms 1. The network is on the CPU.
    """
    channels, layers = model.config.n_embd, len(model.transformer.h)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            adds = name.endswith((".attn.proj", ".mlp.proj"))
            deviation = 2 / (layers * sqrt(channels)) if adds else sqrt(2 / (5 * channels))
            module.weight.normal_(0.0, deviation, generator=generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        elif isinstance(weight := getattr(module, "weight", None), nn.Parameter):
            weight.fill_(0.0 if getattr(module, "add_unit_offset", False) else 1.0)
            if isinstance(bias := getattr(module, "bias", None), nn.Parameter):
                bias.zero_()
