"""The picture of a train-off."""

from __future__ import annotations

from pathlib import Path

from matplotlib import colormaps
from matplotlib.colors import to_hex

from dashboards.axes import WINNER
from dashboards.selection_picture import PALETTE, draw_selection
from tests.dashboards.selections import summary
from tests.support.images import pixels


def test_the_winner_stands_out_and_the_others_are_coloured_by_their_layers(tmp_path: Path) -> None:
    draw_selection(summary(), tmp_path / "all.png")
    deepest = to_hex(colormaps[PALETTE](1.0))
    assert pixels(tmp_path / "all.png", WINNER) > 3 * pixels(tmp_path / "all.png", deepest) > 300


def test_of_one_depth_and_with_a_perplexity_beyond_any_axis(tmp_path: Path) -> None:
    """JSON has null where a perplexity is not finite."""
    same = summary()
    for one in same["finalists"]:
        one["layers"] = 3
    same["finalists"][3]["curve_perplexity"] = [None]
    draw_selection(same, tmp_path / "same.png")
    assert pixels(tmp_path / "same.png", WINNER) > 500
