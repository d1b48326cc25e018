"""Candidates per second on a GPU, and what share of it they use.

    python -m benchmarks.scoring.cuda_scoring [--host]

A Pythia-6.9B-shaped teacher with random weights in bfloat16, candidates of the Pythia-410M bin,
sequences of 2048 tokens, 131,072 tokens per candidate in units of 16,384. Two threads hand units to
one `Scorer`, as Ray does with a worker: one gathers the next candidate's weights while the other
one runs. With `--host` the teacher stays in host memory, as one larger than the GPU.

Model FLOPs are those of `evo.genome.cost.forward_flops` (attention counts the full square of a
sequence, of which a causal kernel computes half); the device's rate is that of a product of two
8192 x 8192 matrices, measured here. Writes cuda_scoring.json and cuda_scoring.md beside this file
(`--host`: cuda_scoring_host). `--tiny` is a smoke test of the script on any machine,
and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from litgpt.config import Config
from torch import Tensor

from benchmarks.machine import measured_on, sentence
from evo.genome.bins import parse_bin
from evo.genome.cost import Architecture, Cost, forward_flops, parameters
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.genome.subnet import Subnet
from evo.model.layerwise_gpt import architecture_of, named_cost, tensor_shapes
from evo.model.network import Network
from workers.scoring.scorer import Scorer, torch_dtype
from workers.settings import ScoringSettings
from workers.tasks.micro_batch import largest, try_on

HERE = Path(__file__).parent
SAMPLES = 32
SHARD_TOKENS = 16384


@dataclass(frozen=True)
class Work:
    """What is measured.

    Attributes:
        teacher: a litgpt model's name.
        bin: of parameters.
        length: tokens of a sequence.
        sequences: of the text.
        candidates: that are scored, after one that is not counted.
        matrix: rows of the square matrices by which the device's rate is measured.
        settings: how to score.
    """

    teacher: str
    bin: str
    length: int
    sequences: int
    candidates: int
    matrix: int
    settings: ScoringSettings


LARGE = Work("pythia-6.9b", "pythia-410m", 2048, 64, 12, 8192, ScoringSettings(device="cuda"))
TINY = Work("pythia-14m", "50%", 64, 4, 2, 256, ScoringSettings(micro_batch=2))


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--host", action="store_true", help="keep the teacher in host memory")
    parser.add_argument("--tiny", action="store_true", help="a smoke test; on CPU, writes nothing")
    arguments = parser.parse_args()
    if not arguments.tiny and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; --tiny runs anywhere")
    result = measure(TINY if arguments.tiny else LARGE, host=arguments.host)
    print(json.dumps(result, indent=2))
    if arguments.tiny:
        return
    name = "cuda_scoring_host" if arguments.host else "cuda_scoring"
    result |= {"gpu": torch.cuda.get_device_name(), "machine": measured_on()}
    (HERE / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (HERE / f"{name}.md").write_text(table(result))


def measure(work: Work, *, host: bool) -> dict[str, Any]:
    """Seconds, memory and the share of the device's rate."""
    device = work.settings.device
    config = Config.from_name(work.teacher)
    architecture = architecture_of(config, tied=False)
    rng = np.random.default_rng(0)
    tokens = rng.integers(config.vocab_size, size=(work.sequences, work.length), dtype=np.int32)
    subnets = candidates(work, architecture, rng)
    weights = random_weights(config, architecture, work.settings, host=host)
    teacher = Network(config, architecture.full_widths, weights, tied=False)
    settings = replace(work.settings, device_share=0.0) if host else work.settings
    rows = max(1, min(SHARD_TOKENS, tokens.size // 2) // work.length)
    if settings.micro_batch is None:
        scorer = Scorer(teacher, tokens, replace(settings, micro_batch=1))
        most = largest(subnets, architecture, rows * work.length)
        settings = replace(settings, micro_batch=try_on(scorer, most, rows, 1.0))
        del scorer
    scorer = Scorer(teacher, tokens, settings)
    shards = [(start, start + rows) for start in range(0, work.sequences, rows)]
    score_all(scorer, subnets[:1], shards)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = score_all(scorer, subnets[1:], shards)
    positions = work.sequences * (work.length - 1)
    each = [forward_flops(architecture, subnet.widths, work.length) for subnet in subnets[1:]]
    flops = positions * sum(each)
    rate = matrix_rate(work.matrix, device, torch_dtype(settings))
    sizes = [parameters(architecture, subnet.widths) for subnet in subnets[1:]]
    return {
        "teacher": work.teacher,
        "teacher_in": "host memory" if host else f"{device} memory",
        "parameters": [min(sizes), max(sizes)],
        "sequence_length": work.length,
        "micro_batch": settings.micro_batch,
        "tokens_per_candidate": positions,
        "candidates_per_second": (len(subnets) - 1) / seconds,
        "tokens_per_second": (len(subnets) - 1) * positions / seconds,
        "matrix_flops_per_second": rate,
        "model_flops_utilisation": flops / seconds / rate,
        "gather_seconds": statistics.median(gather_times(scorer, subnets[1:])),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    }


def candidates(work: Work, architecture: Architecture, rng: np.random.Generator) -> list[Subnet]:
    """Random ones of the bin, the largest first."""
    cost = Cost()
    size = cost.of(architecture, architecture.full_widths)
    bin = parse_bin(work.bin, size, lambda name: named_cost(name, cost), cost)
    space = Space("fine-layerwise", architecture, Order.by_index(architecture.dimensions), bin)
    drawn = [space.sample(rng) for _ in range(SAMPLES)]
    first = largest(drawn, architecture, SHARD_TOKENS)
    others = [one for one in drawn if one.id != first.id]
    return [first, *others[: work.candidates]]


def random_weights(
    config: Config, architecture: Architecture, settings: ScoringSettings, *, host: bool
) -> dict[str, Tensor]:
    """By litgpt's names."""
    device = torch.device(settings.device)
    generator = torch.Generator(device).manual_seed(0)
    weights = {}
    for name, shape in tensor_shapes(config, architecture.full_widths).items():
        tensor = torch.empty(*shape, dtype=torch_dtype(settings), device=device)
        if "norm" in name or "ln_f" in name:
            tensor.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            tensor.normal_(0, 0.02, generator=generator)
        weights[name] = tensor.cpu() if host else tensor
    return weights


def score_all(scorer: Scorer, subnets: Iterable[Subnet], shards: list[tuple[int, int]]) -> float:
    """Seconds for every subnet on every shard, two units at a time."""
    units = [(subnet, rows) for subnet in subnets for rows in shards]

    def score(unit: tuple[Subnet, tuple[int, int]]) -> None:
        subnet, rows = unit
        result = scorer.score(subnet.pack(), subnet.id, rows)
        assert result.failure is None, result.failure

    began = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(score, units))
    return time.perf_counter() - began


def gather_times(scorer: Scorer, subnets: Iterable[Subnet]) -> list[float]:
    """Seconds to gather each candidate's weights while nothing else runs."""
    times = []
    for index, subnet in enumerate(subnets):
        began = time.perf_counter()
        scorer.model(subnet.pack(), f"gathered {index}")
        times.append(time.perf_counter() - began)
    return times


def matrix_rate(size: int, device: str, dtype: torch.dtype) -> float:
    """FLOPs per second of a product of two square matrices: the median of ten."""
    first, second = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    times = []
    for _ in range(13):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        first @ second
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(times[3:])


def table(result: dict[str, Any]) -> str:
    """The result to read."""
    low, high = result["parameters"]
    rows = [
        ("candidates per second", f"{result['candidates_per_second']:.2f}"),
        ("tokens per second", f"{result['tokens_per_second']:,.0f}"),
        ("model FLOPs utilisation", f"{result['model_flops_utilisation']:.1%}"),
        ("measured matrix rate", f"{result['matrix_flops_per_second'] / 1e12:.0f} TFLOP/s"),
        ("gathering a candidate's weights", f"{result['gather_seconds'] * 1e3:.0f} ms"),
        ("peak memory", f"{result['peak_gib']:.1f} GiB"),
        ("micro-batch, found automatically", f"{result['micro_batch']} sequences"),
    ]
    return "\n".join(
        [
            "# Scoring on a GPU",
            "",
            f"{result['gpu']}; a {result['teacher']}-shaped teacher with random weights, in "
            f"{result['teacher_in']}; candidates of {low:,} to {high:,} parameters; sequences of "
            f"{result['sequence_length']:,} tokens, {result['tokens_per_candidate']:,} targets per "
            "candidate; bfloat16.",
            "",
            "| | |",
            "| --- | ---: |",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
            sentence(result["machine"]),
            "",
        ]
    )


if __name__ == "__main__":
    main()
