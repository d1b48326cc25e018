"""Does a tenth of the tokens do: full scoring against rungs, and rungs with a model that chooses.

    python -m benchmarks.search.surrogate [--spaces ...] [--seeds 20 21 22] [--arms ...]
        [--processes 2]

Whole searches of the embedded teacher in this process, without Ray, 50 candidates at a time, all
with the sensitivity of layers in their order. `full` scores 1,000 candidates on all of the text and
takes proposals as they come; the others go on until they have scored a tenth of its tokens. By the
product's default a model chooses among proposals and, in fine spaces, half of a generation is made
by gradients of gates, each of whose sequences is charged as 16 that are scored. Goes on where it
was interrupted; writes surrogate.json and surrogate.md beside this file, anew after every search.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.machine import measured_on, sentence
from benchmarks.search.in_process import HELD_OUT, LENGTH, TEXT, Bench
from benchmarks.search.rungs_report import reached
from evo.algorithms.evolution import Evolution
from evo.algorithms.settings import PROPOSALS, Budget, Rates
from evo.algorithms.surrogate import Surrogate
from evo.commands.search.config import SearchConfig
from evo.embedded import teacher_path
from evo.genome import SPACES
from evo.genome.bins import parse_bin
from evo.genome.cost import parameters
from evo.genome.space import Space
from evo.genome.subnet import Subnet
from evo.search.generation import Screening
from evo.search.history.history import History
from evo.search.screening.rung_settings import Rungs
from evo.search.screening.sequence_weights import SequenceWeights
from evo.search.screening.stages import Stages
from evo.search.search import Search
from evo.storage.files import atomic_file, cache_directory

HERE = Path(__file__).parent
BIN, SEQUENCES = "25%", 16
POPULATION, GENERATIONS = 50, 19
SHARE = 0.1
GRADIENT = 16
"""A gradient of gates is charged as so many scored sequences for each of its own: three passes, of
the whole teacher, whose forward pass takes some five times a candidate's FLOPs."""

DEFAULTS = SearchConfig(teacher=teacher_path(), text=TEXT, bins=[BIN], out=Path("unused"))


@dataclass(frozen=True)
class Arm:
    """How candidates are proposed and scored."""

    words: str
    rungs: Rungs
    proposals: int
    gates: bool = False
    by_model: float = Rates.by_model


ARMS = {
    "full": Arm("every candidate on all of the text", Rungs(), 1),
    "rungs": Arm("rungs, proposals as they come", DEFAULTS.rung_settings, 1),
    "default": Arm("the default", DEFAULTS.rung_settings, PROPOSALS, gates=True),
    "model alone": Arm(
        "the default, the model choosing for all places",
        DEFAULTS.rung_settings,
        PROPOSALS,
        gates=True,
        by_model=1.0,
    ),
}


@dataclass(frozen=True)
class Played:
    """Which search."""

    space: str
    seed: int
    arm: str


@cache
def bench() -> Bench:
    """The teacher with its text and order, in this process."""
    return Bench(teacher_path(), SEQUENCES, cache_directory() / "benchmarks" / "surrogate")


def play(played: Played) -> dict[str, Any]:
    """A search to its end; what it found, on which other text, and by when."""
    here, arm = bench(), ARMS[played.arm]
    architecture = here.checkpoint.architecture
    bin = parse_bin(BIN, parameters(architecture, architecture.full_widths), lambda _: None)
    space = Space(played.space, architecture, here.order("activation"), bin)
    generations = GENERATIONS if played.arm == "full" else 10**6
    rates = replace(DEFAULTS.rates, proposals=arm.proposals, by_model=arm.by_model)
    strategy = Evolution(space, Budget(POPULATION, generations), played.seed, rates)
    if arm.proposals > 1:
        strategy.chooser = Surrogate(space, strategy.niche)
    stages = Stages.of(arm.rungs, SEQUENCES, DEFAULTS.shard_tokens // LENGTH)
    screening = Screening(stages, arm.rungs, SequenceWeights.equal(SEQUENCES))
    budget = SHARE * here.tokens * POPULATION * (GENERATIONS + 1)
    with TemporaryDirectory() as directory:
        history, gate_text = History(Path(directory)), here.gate_text if arm.gates else None
        search = Search(played.arm, strategy, history, screening, gate_text=gate_text)
        gated, by_generation, spent = 0, [], 0
        while search.ended is None and (played.arm == "full" or spent < budget):
            gated += here.score_generation(search)
            spent = search.tokens + gated * GRADIENT * (LENGTH - 1)
            by_generation.append((search.evaluations, spent, search.strategy.best.fitness))
        best = search.best_row()
        assert best is not None
        winner = Subnet.unpack(best.genome, architecture.dimensions)
        return asdict(played) | {
            "best": best.fitness,
            "held_out": here.held_out(winner),
            "layers": best.layers,
            "trace": by_generation,
        }


def markdown(results: list[dict[str, Any]], machine: dict[str, Any], note: str = "") -> str:
    """The table: each search of a tenth against full scoring.

    The note is of where searches were not all made alike.
    """
    lines = [
        "# A tenth of the tokens",
        "",
        f"Embedded teacher, bin {BIN}, {SEQUENCES} sequences of {LENGTH} tokens of {TEXT}, "
        f"{POPULATION} candidates at a time. Full scoring: {POPULATION * (GENERATIONS + 1):,} "
        f"candidates, proposals as they come. The others ended with the generation in which they "
        f"had scored {SHARE:.0%} of its tokens. *Worse*: the NLL of the best against full "
        f"scoring's final best, on the fitness text and on {HELD_OUT} sequences that no search "
        "saw. *Reached*: the share of full scoring's tokens after which its best was had.",
        "",
        sentence(machine),
        *(["", note] if note else []),
        "",
        "| space | seed | full scoring's best | by | worse by | on other text | reached at |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    fulls = {(one["space"], one["seed"]): one for one in results if one["arm"] == "full"}
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for one in sorted(results, key=lambda one: (one["space"], one["seed"], one["arm"])):
        full = fulls.get((one["space"], one["seed"]))
        if full is None or one["arm"] == "full":
            continue
        tokens = reached(one["trace"], full["best"])
        share = float("inf") if tokens is None else tokens / full["trace"][-1][1]
        worse = one["best"] / full["best"] - 1, one["held_out"] / full["held_out"] - 1
        found[one["arm"]].append((*worse, share))
        lines.append(
            f"| {one['space']} | {one['seed']} | {full['best']:.4f} | {ARMS[one['arm']].words} | "
            f"{worse[0]:+.2%} | {worse[1]:+.2%} | {_share(share)} |"
        )
    lines += ["", "| by | searches | worse by, median | at worst | on other text | at worst | "]
    lines[-1] += "reached, median |"
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for name, figures in found.items():
        worse, other, shares = zip(*figures, strict=True)
        lines.append(
            f"| {ARMS[name].words} | {len(figures)} | {statistics.median(worse):+.2%} | "
            f"{max(worse):+.2%} | {statistics.median(other):+.2%} | {max(other):+.2%} | "
            f"{_share(statistics.median(shares))} |"
        )
    return "\n".join(lines) + "\n"


def _share(share: float) -> str:
    return "not reached" if share == float("inf") else f"{share:.1%}"


def main() -> None:
    """Play what is not there yet, the shorter searches first."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=list(SPACES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[20, 21, 22])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(reversed(ARMS)))
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    path = HERE / "surrogate.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    results, note = before.get("results", []), before.get("note", "")
    done = {Played(one["space"], one["seed"], one["arm"]) for one in results}
    bench().order("activation")  # made here, not by every process at once
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(given.processes, context) as processes:
        todo = [
            Played(space, seed, arm)
            for seed, arm, space in product(given.seeds, given.arms, given.spaces)
        ]
        for future in as_completed(
            [processes.submit(play, one) for one in todo if one not in done]
        ):
            results.append(future.result())
            with atomic_file(path) as temporary:
                temporary.write_text(
                    json.dumps({"machine": measured_on(), "note": note, "results": results}) + "\n"
                )
            (HERE / "surrogate.md").write_text(markdown(results, measured_on(), note))
            print({k: v for k, v in results[-1].items() if k != "trace"}, flush=True)


if __name__ == "__main__":
    main()
