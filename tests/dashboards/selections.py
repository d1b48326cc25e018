"""The summary of a train-off that was never run."""

from __future__ import annotations

from math import log
from typing import Any


def summary(bin: str = "40%") -> dict[str, Any]:
    """Four finalists, one of which diverges, in two rounds of 100 and 200 tokens."""
    curves = {
        "a" * 16: (3, [90.0, 50.0, 30.0]),
        "b" * 16: (5, [80.0, 40.0, 35.0]),
        "c" * 16: (3, [70.0, 60.0]),
        "d" * 16: (2, [60.0]),
    }
    finalists = [
        {
            "candidate": candidate,
            "search": f"fine-layerwise@{bin}",
            "layers": layers,
            "params": 1000 + layers,
            "fitness": 4.0,
            "nll_before": log(curve[0]),
            "nll": [log(one) for one in curve[1:]] or [None],
            "reason": None if curve[1:] else "the loss is <nan>",
            "tokens": 100 * (len(curve) - 1),
            "flops": 10**6 * (len(curve) - 1),
            "curve_tokens": [100 * number for number in range(len(curve))],
            "curve_perplexity": curve,
        }
        for candidate, (layers, curve) in curves.items()
    ]
    return {
        "run": "run",
        "bin": bin,
        "chosen_by": "validation NLL after 200 tokens of training",
        "validation_text": "held-out.txt",
        "winner": finalists[0] | {"nll": log(30.0), "perplexity": 30.0},
        "continue": "evo pretrain --model m --out o",
        "rounds": [
            {"finalists": 4, "step": 1, "tokens": 100, "survivors": ["b" * 16, "a" * 16]},
            {"finalists": 2, "step": 2, "tokens": 200, "survivors": ["a" * 16]},
        ],
        "finalists": finalists,
        "tokens": 500,
        "flops": 5 * 10**6,
        "winner_flops": 2 * 10**6,
        "planned_tokens": 1000,
        "planned_flops": 10**7,
    }
