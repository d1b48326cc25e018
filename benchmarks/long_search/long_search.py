"""A search of 200,000 evaluations: does its memory stay flat, and what does its history cost?

    python -m benchmarks.long_search.long_search [--evaluations 200000] [--space fine-layerwise]
        [--directory DIR]

Over Pythia-6.9B's dimensions, in the bin of Pythia-410M, 50 candidates a generation, proposals as
they come. The driver's own parts in this process: proposals, the generation, the journal, the
history; in the place of workers a formula gives the losses of a candidate from its shape. At
the end the search is made again from its files, as a resumed one is, and a report's table is read.
Writes long_search.json, long_search.md and long_search.png beside this file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from benchmarks.long_search.long_search_report import draw, markdown
from benchmarks.machine import measured_on
from benchmarks.search.proposals import BINS, PYTHIA_6_9B
from evo.algorithms.evolution import Evolution
from evo.algorithms.settings import Budget
from evo.genome import SPACES
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.genome.subnet import Subnet
from evo.search.generation import Screening
from evo.search.history.history import History
from evo.search.screening.rung_settings import Rungs
from evo.search.screening.sequence_weights import SequenceWeights
from evo.search.screening.stages import Stages
from evo.search.search import Search
from evo.search.shard_score import ShardScore

HERE = Path(__file__).parent
POPULATION, SEQUENCES, LENGTH = 50, 32, 2048
POINTS = 40
"""Measurements along the way, at least; more at the beginning."""


@dataclass(frozen=True)
class Point:
    """Where the search is.

    Attributes:
        evaluations: candidates scored.
        memory: resident bytes of the process.
        fold_seconds: of the driver's thread at the end of a generation, the mean since the last
            point.
        written_seconds: until such an end is on disk, the last generation's.
        stored_bytes: of all files of the search.
    """

    evaluations: int
    memory: int
    fold_seconds: float
    written_seconds: float
    stored_bytes: int


def search_in(directory: Path, space_name: str, generations: int) -> Search:
    """The search, from its beginning or from its files."""
    order = Order.by_index(PYTHIA_6_9B.dimensions)
    space = Space(space_name, PYTHIA_6_9B, order, BINS[0])
    strategy = Evolution(space, Budget(POPULATION, generations), 0)
    rungs = Rungs()
    stages = Stages.of(rungs, SEQUENCES, SEQUENCES)
    screening = Screening(stages, rungs, SequenceWeights.equal(SEQUENCES))
    return Search(space_name, strategy, History(directory), screening)


def losses(subnet: Subnet) -> ShardScore:
    """A formula of the shape, with a little noise that the candidate's id determines."""
    widths, full = subnet.widths, PYTHIA_6_9B.dimensions
    shares = (
        widths.layers / full.layers,
        widths.channels / full.channels,
        sum(widths.groups) / (widths.layers * full.groups),
        sum(widths.neurons) / (widths.layers * full.neurons),
    )
    noise = int(subnet.id[:4], 16) / 65535
    loss = 4 + sum((1 - share) ** 2 for share in shares) + 0.1 * noise
    return ShardScore((loss * (LENGTH - 1),) * SEQUENCES, SEQUENCES * (LENGTH - 1), 0.1)


def stored(directory: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def run(search: Search, evaluations: int) -> list[Point]:
    """Search to the end, and measure along the way."""
    process, points, folds = psutil.Process(), list[Point](), list[float]()
    every = max(1, evaluations // POPULATION // POINTS)
    while not search.ended:
        for proposal, shard in search.begin_generation():
            search.take({(proposal.subnet.id, shard): losses(proposal.subnet)})
        search.advance()
        if not search.complete:
            break
        search.history.flush()  # before the clock starts: a real generation takes seconds
        began = time.perf_counter()
        search.end_generation()
        folds.append(time.perf_counter() - began)
        done = search.strategy.generation
        if done % every == 0 or search.evaluations in (1000, 10_000) or search.ended:
            search.history.flush()
            written = time.perf_counter() - began
            memory = process.memory_info().rss
            mean = float(np.mean(folds))
            bytes_ = stored(search.history.directory)
            points.append(Point(search.evaluations, memory, mean, written, bytes_))
            folds = []
            print(points[-1], flush=True)
    return points


def resumed(directory: Path, space: str, generations: int) -> dict[str, float]:
    """How long it takes to go on from the files, and to read them as a report does."""
    began = time.perf_counter()
    search = search_in(directory, space, generations + 1)
    resume = time.perf_counter() - began
    began = time.perf_counter()
    proposals = search.begin_generation()
    propose = time.perf_counter() - began
    assert len(proposals) == POPULATION
    began = time.perf_counter()
    search.history.frame()
    table = time.perf_counter() - began
    began = time.perf_counter()
    rows = len(pd.read_parquet(directory / "history.parquet", columns=["candidate", "fitness"]))
    return {
        "resume_seconds": resume,
        "next_generation_seconds": propose,
        "report_table_seconds": table,
        "pandas_two_columns_seconds": time.perf_counter() - began,
        "rows": rows,
    }


def main() -> None:
    """Search, go on, and write down what it took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--evaluations", type=int, default=200_000)
    parser.add_argument("--space", choices=SPACES, default="fine-layerwise")
    parser.add_argument("--directory", type=Path, help="of the search, which stays; removed first")
    given = parser.parse_args()
    directory = given.directory or Path(tempfile.mkdtemp(prefix="evo-long-search-"))
    shutil.rmtree(directory, ignore_errors=True)
    generations = given.evaluations // POPULATION - 1
    before = psutil.Process().io_counters()
    began = time.perf_counter()
    points = run(search_in(directory, given.space, generations), given.evaluations)
    seconds = time.perf_counter() - began
    written = psutil.Process().io_counters().write_chars - before.write_chars
    result: dict[str, Any] = {
        "machine": measured_on(),
        "space": given.space,
        "seconds": seconds,
        "written_bytes": written,
        "points": [asdict(point) for point in points],
        **resumed(directory, given.space, generations),
    }
    (HERE / "long_search.json").write_text(json.dumps(result) + "\n")
    (HERE / "long_search.md").write_text(markdown(result))
    draw(result, HERE / "long_search.png")
    if given.directory is None:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
