"""The learning rate of each arm of `evo quickstart`: the best of a small grid, for every arm.

    python -m benchmarks.training.learning_rates [--out DIR]

The random arm of a comparison is a fair one only if its learning rate is tuned too. Writes
learning_rates.md beside this file; goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evo.commands.quickstart.settings import (
    ARMS,
    QuickstartConfig,
    pretrain_config,
    search_config,
    select_config,
)
from evo.commands.search.driver import search
from training.pretrain import pretrain
from training.selection.select import select

GRID = (2e-3, 4e-3, 8e-3, 16e-3)
HERE = Path(__file__).parent


def main() -> None:
    """Run the grid, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("learning_rates"))
    out = parser.parse_args().out
    search(search_config(QuickstartConfig(out=out)))
    model = select(select_config(QuickstartConfig(out=out), "winner")).pretraining.model
    lines = ["| start | " + " | ".join(f"{rate:g}" for rate in GRID) + " |"]
    lines.append("| --- |" + " --- |" * len(GRID))
    for name in ("random", "winner", "distilled"):
        ends = []
        for rate in GRID:
            config = QuickstartConfig(out=out / f"{rate:g}")
            run = pretrain(pretrain_config(config, name, Path(model), rate))
            ends.append(run["validation_perplexity"])
        cells = [f"**{end:.2f}**" if end == min(ends) else f"{end:.2f}" for end in ends]
        lines.append(f"| {ARMS[name].label} | " + " | ".join(cells) + " |")
        print("\n".join(lines), flush=True)
    (HERE / "learning_rates.md").write_text(
        "# Learning rates of the quickstart\n\n`python -m benchmarks.training.learning_rates`\n\n"
        "Final validation perplexity of each arm by peak learning rate, everything else as in "
        "`evo quickstart`; the best of each row is what the quickstart uses.\n\n"
        + "\n".join(lines)
        + "\n"
    )


if __name__ == "__main__":
    main()
