"""Best fitness against scored tokens: every candidate scored in full, and rungs.

    python -m benchmarks.search.rungs [--teachers embedded larger] [--seeds 10 11 12] [--out DIR]

Whole searches without Ray, one thread each, two at a time; each goes on where it was interrupted.
The text of a full scoring is the shortest that ranks random candidates as four times as much does
(`benchmarks.search.agreement`). Writes rungs.json, rungs.md and rungs.png beside this file, anew
after every match.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.larger_teacher import larger_teacher
from benchmarks.machine import measured_on
from benchmarks.search.agreement import TIMES, curve, fewest
from benchmarks.search.rungs_report import draw, markdown, trace
from evo.algorithms.base import Proposal
from evo.algorithms.evolution import Evolution
from evo.algorithms.settings import Budget
from evo.commands.search.config import SearchConfig
from evo.data.token_blocks import load_text
from evo.embedded import teacher_path
from evo.genome import SPACES
from evo.genome.bins import parse_bin
from evo.genome.cost import parameters
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.genome.subnet import Subnet
from evo.model import checkpoint
from evo.model.importance import importance_by_activation
from evo.search.generation import EliteLosses, Screening
from evo.search.history.history import History
from evo.search.screening.rung_settings import Rungs
from evo.search.screening.rungs import Losses
from evo.search.screening.sequence_weights import SequenceWeights
from evo.search.screening.stages import Stages, spread
from evo.search.search import Search
from evo.storage.files import atomic_file, cache_directory
from workers.scoring.scorer import Scorer
from workers.settings import ScoringSettings

HERE = Path(__file__).parent
TEXT, LENGTH = "stdlib:validation", 256
BIN = "25%"
CANDIDATES, CURVE_SEQUENCES = 50, 64
POPULATION, GENERATIONS = 50, 19
EVALUATIONS = POPULATION * (GENERATIONS + 1)
RECORD = "record.json"
TENTH = 0.1
"""Rungs also search for as many generations as cost this share of full scoring's tokens."""

TEACHERS = {"embedded": teacher_path, "larger": larger_teacher}
ONE_SPACE = "coarse-uniform"
"""Where one space has to do: the larger teacher, longer texts, other settings of rungs."""

LONGER = 4
"""One search is also made on so many times the text, where a rung can be a smaller share."""

DEFAULTS = SearchConfig(teacher=teacher_path(), text=TEXT, bins=[BIN], out=Path("unused"))
FULL, DEFAULT = Rungs(), DEFAULTS.rung_settings


class NoRelatives(EliteLosses):
    """Compares what candidates lose as it is, not against their parents."""

    def relatives(self, proposal: Proposal) -> list[Losses]:
        return []


class OrphanSearch(Search):
    """A search whose candidates are not compared with their parents."""

    def _elites(self) -> EliteLosses:
        return NoRelatives(**vars(super()._elites()))


class FixedStages(Stages):
    """Screens on the same sequences in every generation."""

    def rotated(self, generation: int) -> Stages:
        return self


@dataclass(frozen=True)
class Setting:
    """How candidates are screened.

    Attributes:
        rungs: shares, survivors and confidence.
        sizes: sequences of each stage, where `Stages.of` would make them no smaller than two.
        stages: their kind.
        search: the kind of search.
    """

    rungs: Rungs
    sizes: tuple[int, ...] = ()
    stages: type[Stages] = Stages
    search: type[Search] = Search


QUARTER = replace(DEFAULT, survivors=1 / 4)
OTHERS = {
    "1 2 16": Setting(DEFAULT, (1, 2, 16)),
    "1 2 16, always the same sequences": Setting(DEFAULT, (1, 2, 16), stages=FixedStages),
    "1 2 16, not against parents": Setting(DEFAULT, (1, 2, 16), search=OrphanSearch),
    "1 2 4 16, 1/4 survive": Setting(QUARTER, (1, 2, 4, 16)),
    "1 4 16": Setting(DEFAULT, (1, 4, 16)),
    "1 4 16, 1/4 survive": Setting(QUARTER, (1, 4, 16)),
    "1 16, 1/16 survive": Setting(replace(DEFAULT, survivors=1 / 16), (1, 16)),
    "1 16, 1/32 survive": Setting(replace(DEFAULT, survivors=1 / 32), (1, 16)),
}


@dataclass(frozen=True)
class Match:
    """Searches that differ in nothing but their rungs.

    Attributes:
        teacher: of `TEACHERS`.
        space: of `SPACES`.
        seed: of the searches.
        sequences: of a full scoring.
        others: settings of rungs besides the default, of `OTHERS`.
    """

    teacher: str
    space: str
    seed: int
    sequences: int
    others: tuple[str, ...] = ()


class Laboratory:
    """A teacher, its text and order, and where results are kept."""

    def __init__(self, name: str, out: Path) -> None:
        torch.set_num_threads(1)
        self.out = out / name
        self.teacher = checkpoint.load(TEACHERS[name]())
        blocks = load_text(
            TEXT,
            tokenizer=self.teacher.tokenizer,
            vocabulary=self.teacher.vocabulary,
            sequence_length=LENGTH,
        ).blocks
        path = self.out / "order.npz"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            importance = importance_by_activation(self.teacher.model(torch.float32), blocks)
            Order.by_importance(**vars(importance)).save(path)
        self.order = Order.load(path)
        self.scorer = Scorer(
            self.teacher,
            blocks[spread(len(blocks))],
            ScoringSettings(),
        )

    def space(self, name: str) -> Space:
        """One of the four, in the benchmark's bin."""
        architecture = self.teacher.architecture
        size = parameters(architecture, architecture.full_widths)
        return Space(name, architecture, self.order, parse_bin(BIN, size, lambda _: None))

    def losses(self, subnet: Subnet, start: int, stop: int) -> tuple[float, ...]:
        """Summed NLL on each of some sequences."""
        return self.scorer.score(subnet.pack(), subnet.id, (start, stop)).nll


laboratory = cache(Laboratory)


def agreement(where: tuple[str, str], out: Path) -> dict[int, float]:
    """The curve of a teacher and a space, from random candidates."""
    here = laboratory(where[0], out)
    path = here.out / f"random-{where[1]}.jsonl"
    path.touch()
    known: dict[str, list[float]] = dict(map(json.loads, path.read_text().splitlines()))
    rng, space = np.random.default_rng(0), here.space(where[1])
    subnets = [space.sample(rng) for _ in range(CANDIDATES)]
    for subnet in subnets:
        if subnet.id not in known:
            known[subnet.id] = list(here.losses(subnet, 0, CURVE_SEQUENCES))
            with path.open("a") as file:
                file.write(json.dumps((subnet.id, known[subnet.id])) + "\n")
    return curve(np.array([known[subnet.id] for subnet in subnets]))


def play(match: Match, out: Path) -> None:
    """Run the searches of a match, or go on with them; full scoring's first."""
    full = search(match, "full", Setting(FULL), out)
    default = search(match, "default", Setting(DEFAULT), out)
    for name in match.others:
        search(match, name, OTHERS[name], out)
    used = default["trace"][-1][1] / full["trace"][-1][1]
    generations = int((GENERATIONS + 1) * TENTH / used) - 1
    if generations != GENERATIONS:
        search(match, "default, a tenth", Setting(DEFAULT), out, generations)


def search(
    match: Match, name: str, setting: Setting, out: Path, generations: int = GENERATIONS
) -> dict[str, Any]:
    """One search, to its end: its record, which is also left beside its history."""
    here, rungs = laboratory(match.teacher, out), setting.rungs
    rows_per_shard = DEFAULTS.shard_tokens // LENGTH
    stages = Stages.of(rungs, match.sequences, rows_per_shard)
    stages = setting.stages(setting.sizes or stages.sizes, rows_per_shard)
    budget = Budget(POPULATION, generations)
    strategy = Evolution(here.space(match.space), budget, match.seed, DEFAULTS.rates)
    home = f"{match.space}-{match.seed}-{match.sequences}-{name.replace('/', '_')}"
    screening = Screening(stages, rungs, SequenceWeights.equal(stages.sizes[-1]))
    one = setting.search(name, strategy, History(here.out / home), screening)
    while not one.ended:
        score_generation(one, here)
    best = one.best_row()
    assert best is not None
    winner = Subnet.unpack(best.genome, here.teacher.architecture.dimensions)
    fresh = here.losses(winner, match.sequences, TIMES * match.sequences)
    record = {
        "teacher": match.teacher,
        "space": match.space,
        "seed": match.seed,
        "sequences": match.sequences,
        "rungs": name,
        "stages": list(stages.sizes),
        "survivors": rungs.survivors,
        "confidence": rungs.confidence,
        "trace": trace(one.history.rows()),
        "fresh_nll": sum(fresh) / len(fresh) / (LENGTH - 1),
        "seconds": sum(row.seconds for row in one.history.rows()),
    }
    with atomic_file(one.history.directory / RECORD) as temporary:
        temporary.write_text(json.dumps(record))
    return record


def score_generation(one: Search, here: Laboratory) -> None:
    """One unit after the other, as a pool of one worker would."""
    wanted = [*one.begin_generation(), *one.advance()]
    while wanted:
        for proposal, shard in wanted:
            subnet = proposal.subnet
            score = here.scorer.score(subnet.pack(), subnet.id, one.stages.shards[shard])
            assert score.failure is None, score.failure
            one.take({(subnet.id, shard): score})
        wanted = one.advance()
    if one.complete:
        one.end_generation()


def spaces_of(teacher: str) -> tuple[str, ...]:
    """Where a teacher is searched."""
    return SPACES if teacher == "embedded" else (ONE_SPACE,)


def matches(sequences: Mapping[str, int], seeds: Sequence[int]) -> tuple[list[Match], list[Match]]:
    """What is to be run, the most telling first, and what only then.

    Args:
        sequences: of a full scoring, by teacher.
        seeds: of the searches.
    """
    first = [
        Match(teacher, space, seed, count)
        for seed in seeds
        for teacher, count in sequences.items()
        for space in spaces_of(teacher)
    ]
    if "embedded" not in sequences:
        return first, []
    longer = Match("embedded", ONE_SPACE, seeds[0], LONGER * sequences["embedded"])
    compared = [
        replace(match, others=tuple(OTHERS))
        for match in first
        if match.teacher == "embedded" and match.seed == seeds[0]
    ]
    return first, [*compared, longer]


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--teachers", nargs="+", choices=TEACHERS, default=list(TEACHERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12])
    parser.add_argument("--out", type=Path, default=cache_directory() / "benchmarks" / "rungs")
    options = parser.parse_args()
    for teacher in options.teachers:
        Laboratory(teacher, options.out)  # its order is made here, not by both processes at once
    where = [(teacher, space) for teacher in options.teachers for space in spaces_of(teacher)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as processes:
        found = processes.map(partial(agreement, out=options.out), where)
        curves = dict(zip(where, found, strict=True))
        sequences = {
            teacher: fewest([one for (of, _), one in curves.items() if of == teacher])
            for teacher in options.teachers
        }
        print(f"scoring in full: {sequences} sequences", flush=True)
        for todo in matches(sequences, options.seeds):  # no search is in both processes at once
            began = time.perf_counter()
            futures = {processes.submit(play, match, options.out): match for match in todo}
            scored = 0
            for future in as_completed(futures):
                future.result()
                report(curves, sequences, options.out)
                scored += futures[future].sequences
                share = scored / sum(match.sequences for match in todo)
                left = (time.perf_counter() - began) * (1 / share - 1) / 60
                print(f"{futures[future]}: {share:.0%}, {left:.0f} minutes left", flush=True)


def report(
    curves: Mapping[tuple[str, str], dict[int, float]], sequences: Mapping[str, int], out: Path
) -> None:
    """Write the results so far beside this file."""
    records = [
        json.loads(path.read_text())
        for teacher in sequences
        for path in sorted((out / teacher).glob(f"*/{RECORD}"))
    ]
    result = {
        "curves": [
            {"teacher": teacher, "space": space, "tau": {str(n): tau for n, tau in one.items()}}
            for (teacher, space), one in curves.items()
        ],
        "sequences": sequences,
        "length": LENGTH,
        "text": TEXT,
        "bin": BIN,
        "population": POPULATION,
        "evaluations": EVALUATIONS,
        "records": records,
        "machine": measured_on(),
    }
    (HERE / "rungs.json").write_text(json.dumps(result) + "\n")
    (HERE / "rungs.md").write_text(markdown(result, HERE / "rungs.md"))
    draw(result, HERE / "rungs.png")


if __name__ == "__main__":
    main()
