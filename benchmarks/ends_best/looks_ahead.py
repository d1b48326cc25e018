"""What predicts how a cut network ends: rank correlations with the perplexity after training.

    python -m benchmarks.ends_best.looks_ahead [--teachers embedded larger] [--bins 25% 40%]
        [--seeds 0 1 2] [--processes 2]

For each teacher, bin and seed, `CANDIDATES` networks that span depth and fitness: of each depth
and space, some of a dozen random candidates, from the best to the median. Each is scored
before training (NLL, KL to the teacher, shape), then trained `STEPS` steps under a constant
learning rate and validated on the way. Goes on where it was interrupted. Writes looks_ahead.json
and looks_ahead.md beside this file, anew after every cell.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.larger_teacher import larger_teacher
from benchmarks.machine import measured_on, sentence
from benchmarks.search.in_process import LENGTH, Bench
from evo.data.token_blocks import load_text
from evo.embedded import teacher_path
from evo.genome.bins import parse_bin
from evo.genome.cost import parameters
from evo.genome.space import Space
from evo.genome.subnet import Subnet
from evo.model.extract import extract
from evo.model.kl import Divergence
from evo.storage.files import atomic_file, cache_directory
from training.loop.student import Student
from training.losses.settings import LossSettings
from workers.scoring.scorer import Scorer
from workers.settings import ScoringSettings

HERE = Path(__file__).parent
SPACES = ("coarse-uniform", "fine-layerwise")
CANDIDATES, DRAWS, SCORED = 24, 400, 12
STEPS, BATCH, LEARNING_RATE, WARMUP = 400, 8, 4e-3, 8
VALIDATED = (2, 5, 10, 20, 50, 100, 200, 400)
ENDS = (10, 50, STEPS)
VALIDATION = 128
SEQUENCES = 16
"""Sequences of the fitness text: the fewest that make sense, see search/rungs.md."""


@dataclass(frozen=True)
class Cell:
    """Which candidates: of a teacher, in a bin, drawn with a seed."""

    teacher: str
    bin: str
    seed: int


@cache
def bench(teacher: str) -> Bench:
    """A teacher with its text, in this process."""
    directory = teacher_path() if teacher == "embedded" else larger_teacher()
    return Bench(directory, SEQUENCES, cache_directory() / "benchmarks" / "looks_ahead")


def candidates(cell: Cell) -> list[tuple[str, Subnet]]:
    """Networks of all depths, of each the best, the median and those between, with their spaces."""
    at = bench(cell.teacher)
    architecture = at.checkpoint.architecture
    whole = Subnet.full(architecture.dimensions)
    target = parse_bin(cell.bin, parameters(architecture, whole.widths), lambda _: None)
    drawn: dict[tuple[str, int], dict[str, Subnet]] = defaultdict(dict)
    rng = np.random.default_rng(cell.seed)
    for name in SPACES:
        space = Space(name, architecture, at.order("activation"), target)
        for _ in range(DRAWS):
            subnet = space.sample(rng)
            of_depth = drawn[name, int(subnet.layers.sum())]
            if len(of_depth) < SCORED:
                of_depth[subnet.id] = subnet
    each = -(-CANDIDATES // len(drawn))
    chosen = []
    for name, depth in sorted(drawn):
        ranked = sorted(drawn[name, depth].values(), key=at.fitness)
        places = np.linspace(0, len(ranked) // 2, min(each, len(ranked))).round().astype(int)
        chosen += [(name, ranked[place]) for place in dict.fromkeys(places.tolist())]
    taken = np.linspace(0, len(chosen) - 1, min(CANDIDATES, len(chosen))).round().astype(int)
    return [chosen[place] for place in taken.tolist()]


def measure(cell: Cell, space: str, genome: bytes) -> dict[str, Any]:
    """Score a network before its training, train it, and validate it on the way."""
    torch.set_num_threads(1)
    at = bench(cell.teacher)
    teacher = at.checkpoint
    subnet = Subnet.unpack(genome, teacher.architecture.dimensions)
    divergence = Divergence(teacher.vocabulary)
    scorer = Scorer(
        teacher,
        np.ascontiguousarray(at.text[:SEQUENCES]),
        ScoringSettings(divergence=divergence, cache_bytes=0),
    )
    score = scorer.score(genome, subnet.id, (0, SEQUENCES))
    assert score.divergence is not None, score.failure
    student = Student(extract(teacher, subnet, dtype=torch.float32), LossSettings())
    return asdict(cell) | {
        "space": space,
        "candidate": subnet.id,
        "layers": int(subnet.layers.sum()),
        "channels": int(subnet.channels.sum()),
        "params": parameters(teacher.architecture, subnet.widths),
        "nll": sum(score.nll) / score.tokens,
        "kl": sum(score.divergence) / score.tokens,
        "after": train(student, cell.seed, texts(cell.teacher)),
    }


@cache
def texts(teacher: str) -> tuple[np.ndarray, np.ndarray]:
    """Blocks to train on, and blocks to validate on that neither training nor fitness has."""
    at = bench(teacher).checkpoint
    blocks = load_text(
        "stdlib:train",
        tokenizer=at.tokenizer,
        vocabulary=at.vocabulary,
        sequence_length=LENGTH,
    ).blocks
    return blocks, bench(teacher).text[SEQUENCES : SEQUENCES + VALIDATION]


def train(student: Student, seed: int, blocks: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Train with AdamW at a constant rate after a warm-up; NLL after each number of steps."""
    text, validation = blocks
    order = np.random.default_rng([seed, 1]).permutation(len(text))
    optimizer = torch.optim.AdamW(student.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    after = {}
    student.train()
    for step in range(1, STEPS + 1):
        rows = order[np.arange((step - 1) * BATCH, step * BATCH) % len(order)]
        tokens = torch.from_numpy(text[rows].astype(np.int64))
        loss = student(tokens, None)[0] / (tokens[:, 1:].numel())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, step / WARMUP)
        optimizer.step()
        optimizer.zero_grad()
        if step in VALIDATED:
            nll = student.summed_nll(validation, BATCH).sum()
            after[str(step)] = float(nll) / (validation.shape[0] * (validation.shape[1] - 1))
    return after


def predictors(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """What is known of candidates before, or early in, their training; the less, the better."""
    values = {
        "NLL before training": np.array([row["nll"] for row in rows]),
        "KL to the teacher": np.array([row["kl"] for row in rows]),
        "depth alone": -np.array([float(row["layers"]) for row in rows]),
    }
    for step in VALIDATED[:-1]:
        values[f"NLL after {step} steps"] = np.array([row["after"][str(step)] for row in rows])
    for step, later in pairwise(VALIDATED[1:7]):
        before, now = values[f"NLL after {step} steps"], values[f"NLL after {later} steps"]
        values[f"NLL after {later} steps, and half of the way from {step} steps on"] = (
            now + (now - before) / 2
        )
    values["NLL + logarithms of depth and width, fitted to the others' ends"] = _fitted(rows)
    return values


def _fitted(rows: list[dict[str, Any]]) -> np.ndarray:
    """Least squares of the end on NLL, logarithms of depth and width; each predicted without it."""
    features = np.array(
        [[1.0, row["nll"], np.log(row["layers"]), np.log(row["channels"])] for row in rows]
    )
    ends = np.array([row["after"][str(STEPS)] for row in rows])
    predicted = np.empty(len(rows))
    for left_out in range(len(rows)):
        kept = np.arange(len(rows)) != left_out
        weights = np.linalg.lstsq(features[kept], ends[kept], rcond=None)[0]
        predicted[left_out] = features[left_out] @ weights
    return predicted


def within_depth(rows: list[dict[str, Any]], values: np.ndarray, ends: np.ndarray) -> float:
    """The mean rank correlation among candidates of one depth, where there are at least four."""
    depths = np.array([row["layers"] for row in rows])
    found = [
        spearmanr(values[depths == depth], ends[depths == depth]).statistic
        for depth in np.unique(depths)
        if (depths == depth).sum() >= 4 and np.ptp(values[depths == depth]) > 0
    ]
    return float(np.mean(found)) if found else float("nan")


def regret(values: np.ndarray, ends: np.ndarray) -> float:
    """By how much more perplexity the chosen candidate ends than the best."""
    return float(np.exp(ends[values.argmin()] - ends.min()) - 1)


def markdown(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """The tables: each predictor against the end in each cell, and each candidate."""
    cells: dict[Cell, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        cells[Cell(row["teacher"], row["bin"], row["seed"])].append(row)
    lines = [
        "# What predicts the end",
        "",
        f"Spearman's rank correlation with the NLL after {', '.join(map(str, ENDS))} steps of "
        f"{BATCH} sequences of {LENGTH} tokens, AdamW at a constant {LEARNING_RATE:g}; in brackets "
        "the mean of those within a depth, for the last; then by how much more perplexity the "
        "candidate ends that the predictor would choose than the best of the cell's candidates.",
        "",
        sentence(machine),
        "",
        "| predictor | " + " | ".join(_label(cell, len(cells[cell])) for cell in cells) + " |",
        "| --- |" + " --- |" * len(cells),
    ]
    table: dict[str, list[str]] = defaultdict(list)
    for of_cell in cells.values():
        ends = np.array([row["after"][str(STEPS)] for row in of_cell])
        for name, values in predictors(of_cell).items():
            rho = " / ".join(
                f"{spearmanr(values, [row['after'][str(end)] for row in of_cell]).statistic:.2f}"
                for end in ENDS
            )
            inside = within_depth(of_cell, values, ends)
            table[name].append(f"{rho} ({inside:.2f}), +{regret(values, ends):.1%}")
    lines += [f"| {name} | " + " | ".join(found) + " |" for name, found in table.items()]
    lines += ["", "| cell | space | layers | channels | parameters | NLL | "]
    lines[-1] += " | ".join(f"NLL at {step}" for step in VALIDATED) + " |"
    lines.append("| --- |" * (6 + len(VALIDATED)))
    lines[-1] = lines[-1].replace("||", "|")
    for cell, of_cell in cells.items():
        for row in sorted(of_cell, key=lambda row: row["after"][str(STEPS)]):
            after = " | ".join(f"{row['after'][str(step)]:.3f}" for step in VALIDATED)
            lines.append(
                f"| {_label(cell)} | {row['space']} | {row['layers']} | {row['channels']} | "
                f"{row['params']:,} | {row['nll']:.3f} | {after} |"
            )
    return "\n".join(lines) + "\n"


def _label(cell: Cell, count: int | None = None) -> str:
    counted = "" if count is None else f" ({count} networks)"
    return f"{cell.teacher}, {cell.bin}, seed {cell.seed}{counted}"


def main() -> None:
    """Measure all cells, writing after each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teachers", nargs="+", default=["embedded", "larger"])
    parser.add_argument("--bins", nargs="+", default=["25%", "40%"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    path = HERE / "looks_ahead.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    done = {(row["teacher"], row["bin"], row["seed"], row["candidate"]) for row in rows}
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(given.processes, context) as pool:
        for teacher, bin, seed in (
            (teacher, bin, seed)
            for seed in given.seeds
            for teacher in given.teachers
            for bin in given.bins
        ):
            cell = Cell(teacher, bin, seed)
            left = [
                pool.submit(measure, cell, space, subnet.pack())
                for space, subnet in candidates(cell)
                if (teacher, bin, seed, subnet.id) not in done
            ]
            for future in left:
                rows.append(future.result())
                result = {"machine": measured_on(), "rows": rows}
                with atomic_file(path) as temporary:
                    temporary.write_text(json.dumps(result, indent=1) + "\n")
                print(_label(cell), rows[-1], flush=True)
            (HERE / "looks_ahead.md").write_text(markdown(rows, measured_on()))


if __name__ == "__main__":
    main()
