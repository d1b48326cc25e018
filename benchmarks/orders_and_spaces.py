"""Best fitness of random search and evolution, in the four spaces, with the three orders.

    python -m benchmarks.orders_and_spaces [--out DIR]

On the embedded teacher, two bins, three seeds, the same number of evaluations for all. Goes on
where it was interrupted. Writes orders_and_spaces.json and the table in orders_and_spaces.md
beside this file.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from evo.driver import search
from evo.embedded import teacher_path
from evo.order import KINDS
from evo.search_config import SearchConfig
from evo.space import SPACES
from evo.text import load_text
from evo.tokenizer import load_tokenizer

BINS = ["25%", "50%"]
SEEDS = (0, 1, 2)
ALGORITHMS = ("random", "evolution")
POPULATION, GENERATIONS = 16, 2
TEXT, SEQUENCES, LENGTH = "stdlib:validation", 12, 256
HERE = Path(__file__).parent


def fitness_text(out: Path) -> Path:
    """A few sequences evenly spaced in the text: its front alone would be one file's style."""
    tokenizer = load_tokenizer(teacher_path())
    assert tokenizer is not None
    blocks = load_text(
        TEXT, tokenizer=tokenizer, vocabulary=tokenizer.vocabulary, sequence_length=LENGTH
    ).blocks
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "text.npy", blocks[np.linspace(0, len(blocks) - 1, SEQUENCES).astype(int)])
    return out / "text.npy"


def run(out: Path) -> pd.DataFrame:
    """Every search; a row each, with its best fitness."""
    rows = []
    text = fitness_text(out)
    for seed, order, algorithm in product(SEEDS, KINDS, ALGORITHMS):
        began = time.perf_counter()
        summary = search(
            SearchConfig(
                teacher=teacher_path(),
                text=str(text),
                order_text=TEXT,
                bins=BINS,
                spaces=list(SPACES),
                out=out / f"{order}-{algorithm}-{seed}",
                population=POPULATION,
                generations=GENERATIONS,
                seed=seed,
                algorithm=algorithm,
                elites=5,
                order=order,
            )
        )
        rows += [
            {"bin": one["bin"], "space": one["space"], "order": order, "algorithm": algorithm,
             "seed": seed, "nll": one["nll"], "evaluations": one["evaluations"]}
            for one in summary["searches"]
        ]  # fmt: skip
        print(f"{order} {algorithm} {seed}: {time.perf_counter() - began:.0f} s", flush=True)
    return pd.DataFrame(rows)


def table(rows: pd.DataFrame) -> str:
    """Mean best NLL over the seeds and its spread, as markdown."""
    lines = ["| bin | space | " + " | ".join(f"{a}, {o}" for o in KINDS for a in ALGORITHMS) + " |"]
    lines.append("| --- | --- |" + " --- |" * (len(KINDS) * len(ALGORITHMS)))
    for bin, space in product(BINS, SPACES):
        cells = []
        for order, algorithm in product(KINDS, ALGORITHMS):
            nll = rows[
                (rows.bin == bin) & (rows.space == space) & (rows.order == order)
                & (rows.algorithm == algorithm)
            ].nll  # fmt: skip
            cells.append(f"{nll.mean():.3f} ± {nll.std():.3f}")
        lines.append(f"| {bin} | {space} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def paired(rows: pd.DataFrame) -> str:
    """How often one choice beats another, all else equal, and by how much."""
    lines = []
    keys = ["bin", "space", "order", "algorithm", "seed"]
    pairs = (
        ("algorithm", "evolution", "random"),
        ("order", "activation", "index"),
        ("order", "magnitude", "index"),
        ("order", "activation", "magnitude"),
        ("space", "fine-layerwise", "coarse-uniform"),
    )
    for column, one, other in pairs:
        for bin in BINS:
            chosen = rows[rows.bin == bin]
            if column != "algorithm":
                chosen = chosen[chosen.algorithm == "evolution"]
            wide = chosen.pivot(
                index=[k for k in keys if k != column], columns=column, values="nll"
            )
            gain = (wide[other] - wide[one]).to_numpy()
            lines.append(
                f"- {bin}: {one} better than {other} in {np.sum(gain > 0)} of {len(gain)} pairs, "
                f"by {gain.mean():+.3f} nats on average"
            )
    return "\n".join(lines)


def main() -> None:
    """Run, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("orders_and_spaces"))
    out = parser.parse_args().out
    logging.getLogger("evo").setLevel(logging.WARNING)
    rows = run(out)
    evaluations = POPULATION * (GENERATIONS + 1)
    setting = (
        f"Best fitness (nats per token, mean and standard deviation over seeds "
        f"{', '.join(map(str, SEEDS))}) after {evaluations} evaluations (population {POPULATION}), "
        f"embedded teacher, {SEQUENCES} evenly spaced sequences of {LENGTH} tokens of {TEXT}. "
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, CPU."
    )
    (HERE / "orders_and_spaces.json").write_text(
        json.dumps({"setting": setting, "rows": rows.to_dict("records")}, indent=1) + "\n"
    )
    markdown = (
        (HERE / "orders_and_spaces.md").read_text()
        if (HERE / "orders_and_spaces.md").is_file()
        else ""
    )
    verdict = markdown.partition("## What it says\n")[2]
    (HERE / "orders_and_spaces.md").write_text(
        "# Orders and spaces\n\n`python -m benchmarks.orders_and_spaces`\n\n"
        f"{setting}\n\n{table(rows)}\n\n{paired(rows)}\n\n## What it says\n{verdict}"
    )
    print((HERE / "orders_and_spaces.md").read_text())


if __name__ == "__main__":
    main()
