"""Pictures of searches: that they show what they should, in the colours they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from dashboards.history_statistics import winner
from dashboards.pictures import COLOURS, WINNER, population_shapes, search_curves
from evo.errors import UserError
from evo.genome.subnet import Subnet
from evo.search.history.row import frame
from tests.support.histories import DIMENSIONS, evolve
from tests.support.images import pixels


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    root = tmp_path_factory.mktemp("searches")
    return {
        f"{space}@{share}%": frame(evolve(root / f"{space}@{share}", space, share).rows())
        for share in (30, 60)
        for space in ("coarse-uniform", "fine-layerwise")
    }


def width_and_height(path: Path) -> tuple[int, int]:
    height, width = imread(path).shape[:2]
    return width, height


def test_a_line_for_each_search(histories: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    search_curves({"coarse-uniform@30%": histories["coarse-uniform@30%"]}, one)
    search_curves(histories, two)
    assert width_and_height(two) == (1200, 696)
    assert pixels(one, COLOURS[0]) > 500
    assert pixels(one, COLOURS[1]) == 0
    assert pixels(two, COLOURS[0]) > 500
    assert pixels(two, COLOURS[1]) > 500
    assert pixels(two, COLOURS[2]) == 0


def test_many_bins_and_plain_labels(histories: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    history = histories["coarse-uniform@30%"]
    search_curves({f"evolution@{share}%": history for share in (10, 20, 30, 40)}, tmp_path / "4")
    assert width_and_height(tmp_path / "4")[1] > 696
    search_curves({"evolution": history, "random": history}, tmp_path / "plain.png")
    assert pixels(tmp_path / "plain.png", COLOURS[1]) > 500


def test_the_same_histories_give_the_same_file(
    histories: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    for name in ("a.png", "b.png"):
        search_curves(histories, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def kept(history: pd.DataFrame) -> Subnet:
    """The winner."""
    best = winner(history)
    assert best is not None
    return Subnet.unpack(best["genome"], DIMENSIONS)


def test_failed_and_infinite_candidates_do_no_harm(tmp_path: Path) -> None:
    history = frame(evolve(tmp_path / "search", failing="NaN in the logits").rows())
    history.loc[1, ["nll", "perplexity"]] = 2000.0, np.inf
    search_curves({"coarse-uniform@50%": history}, tmp_path / "curve.png")
    population_shapes(history, kept(history), tmp_path / "shapes.png")
    assert pixels(tmp_path / "curve.png", COLOURS[0]) > 500
    assert pixels(tmp_path / "shapes.png", WINNER) > 100


def test_one_candidate_is_enough(histories: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    first = histories["fine-layerwise@30%"].iloc[:1]
    search_curves({"fine-layerwise@30%": first}, tmp_path / "curve.png")
    population_shapes(first, kept(first), tmp_path / "shapes.png")
    assert pixels(tmp_path / "curve.png", COLOURS[0]) > 20


def test_shapes_show_the_winner_and_its_layers_where_they_differ(
    histories: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    uniform, layerwise = tmp_path / "uniform.png", tmp_path / "layerwise.png"
    coarse, fine = histories["coarse-uniform@30%"], histories["fine-layerwise@30%"]
    population_shapes(coarse, kept(coarse), uniform)
    population_shapes(fine, kept(fine), layerwise, title="A title")
    assert pixels(uniform, WINNER) > 100
    assert pixels(layerwise, WINNER) > 100
    assert width_and_height(layerwise)[1] > width_and_height(uniform)[1]
    for bars in COLOURS[:2]:
        assert pixels(uniform, bars) == 0
        assert pixels(layerwise, bars) > 5000


def test_nothing_scored_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing is scored"):
        search_curves({"coarse-uniform@30%": frame([])}, tmp_path / "curve.png")
    with pytest.raises(ValueError, match="nothing is scored"):
        population_shapes(frame([]), Subnet.full(DIMENSIONS), tmp_path / "shapes.png")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(histories: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        search_curves(histories, tmp_path / "file" / "curve.png")
