"""`evo quickstart`: the whole way on a laptop, from the embedded teacher to four trained models.

Search two bins, let the finalists of the smaller one train for the winner's place, and random
weights for the best shape; then pretrain, side by side, the winner with distillation and without,
and random weights in their best shape and in the winner's. All for the same number of tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evo.commands.quickstart.settings import (
    ARMS,
    BINS,
    SPACE,
    QuickstartConfig,
    pretrain_config,
    search_config,
    select_config,
)
from evo.console import result_console
from evo.storage.files import write_whole
from training.config import PretrainConfig


def quickstart(config: QuickstartConfig) -> dict[str, Any]:
    """Run it all, print the table, draw the pictures.

    Returns:
        What the table says, as written to `summary.json`.
    """
    # Ray and torch are imported after the flags have been read, so that --help need not wait.
    from dashboards.selection_picture import PICTURE, draw_selection
    from evo.commands.quickstart.outcome import closing, draw, summary_of, table
    from evo.commands.search.driver import search
    from training.selection.select import select
    from training.side_by_side import pretrain_side_by_side

    console = result_console()
    console.print(f"[bold]1. Search[/] the embedded teacher for {SPACE} subnets of "
                  f"{' and '.join(BINS)} of its parameters")  # fmt: skip
    found = search(search_config(config))
    for part in found["searches"]:
        console.print(
            f"   {part['bin']}: {part['evaluations']} candidates, best perplexity "
            f"{part['perplexity']:.2f} with {part['params']:,} parameters: {part['winner']}"
        )
    selections, arms = {}, dict[str, PretrainConfig]()
    for number, name in ((2, "winner"), (3, "random-best")):
        console.print(
            f"[bold]{number}. Train off[/] the finalists of {BINS[0]}: {ARMS[name].label}"
        )
        selected = select(select_config(config, name))
        selections[name], arms[name] = selected.summary, selected.pretraining
        draw_selection(selected.summary, selected.out / PICTURE)
        winner = selected.summary["winner"]
        console.print(f"   {winner['layers']} layers, {winner['params']:,} parameters, chosen by "
                      f"{selected.summary['chosen_by']}")  # fmt: skip
    model = Path(selections["winner"]["winner"]["model"])
    arms |= {name: pretrain_config(config, name, model) for name in ("distilled", "random")}
    console.print("[bold]4. Pretrain[/] side by side:")
    for name, arm in ARMS.items():
        console.print(f"   {arm.label}: {arms[name].out}")
    pretrain_side_by_side("pretraining", [arms[name] for name in ARMS])
    runs = {name: Path(arms[name].out) for name in ARMS}
    summary = summary_of(found, selections, runs)
    write_whole(config.out / "summary.json", json.dumps(summary, indent=2) + "\n")
    draw(config.out, found, summary)
    console.print(table(summary))
    console.print(closing(config.out, summary), soft_wrap=True)
    return summary
