"""Measure how long a network takes to decode a token. Knows nothing of Ray."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from evo.genome.cost import SECOND
from evo.genome.subnet import Widths
from evo.model.layerwise_gpt import build, tie
from evo.model.litgpt import GPT, Config

WARM_UP = 5
"""Tokens that are decoded before any is timed: the first ones allocate and choose kernels."""

SAMPLES = 31
"""Timed tokens; the median of an odd number is one of them, and single stalls do not move it."""


@torch.inference_mode()
def decode_latency(model: GPT, length: int) -> int:
    """The median time in which one token of one sequence is decoded, femtoseconds.

    It is the last of `length` tokens, the keys and values of the others are in litgpt's cache; what
    they are changes no time. Leaves the model as it was, without a cache.

    Args:
        model: either kind of network, on any device, whose rotary table has that length.
        length: tokens, the decoded one included.
    """
    weight = model.lm_head.weight
    model.set_kv_cache(1, length, device=weight.device, dtype=weight.dtype)
    token = torch.zeros((1, 1), dtype=torch.long, device=weight.device)
    position = torch.tensor([length - 1], device=weight.device)
    times = []
    try:
        for _ in range(WARM_UP + SAMPLES):
            _finish(weight.device)
            began = time.perf_counter_ns()
            model(token, position)
            _finish(weight.device)
            times.append(time.perf_counter_ns() - began)
    finally:
        model.clear_kv_cache()
    return int(statistics.median(times[WARM_UP:])) * (SECOND // 10**9)


def random_model(
    config: Config, widths: Widths, *, tied: bool, dtype: torch.dtype, device: str, length: int
) -> GPT:
    """A network of these widths with random weights, to be timed.

    The config is the teacher's, the widths are the network's own; `length` is the longest sequence
    that it is to see.
    """
    with torch.device("meta"):
        model = build(config, widths)
    if tied:
        tie(model)
    model.to(dtype).to_empty(device=device)
    if tied:
        tie(model)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)  # what was in memory may be slow to compute with
    model.max_seq_length = length
    model.cos, model.sin = model.rope_cache(device=torch.device(device))
    return model.requires_grad_(False).eval()


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
