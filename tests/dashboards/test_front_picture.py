"""The picture of the front: that it shows what it should, in the colours it should."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from dashboards.axes import COLOURS, WINNER
from dashboards.front_picture import FRONT, front_picture
from evo.errors import UserError
from evo.search.history.row import frame
from tests.dashboards.test_pictures import pixels, width_and_height
from tests.support.histories import evolve


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    root = tmp_path_factory.mktemp("searches")
    return {
        f"{space}@{share}%": frame(evolve(root / f"{space}@{share}", space, share).rows())
        for share in (25, 40, 70)
        for space in ("coarse-uniform", "fine-layerwise")
    }


def test_candidates_front_and_stars(histories: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    front_picture(histories, tmp_path / "front.png")
    front_picture(histories, tmp_path / "again.png")
    assert (tmp_path / "front.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    assert width_and_height(tmp_path / "front.png") == (1200, 696)
    assert pixels(tmp_path / "front.png", FRONT) > 500
    one_bin = {name: history for name, history in histories.items() if name.endswith("@40%")}
    front_picture(one_bin, tmp_path / "one.png")
    stars = [pixels(tmp_path / name, WINNER) for name in ("front.png", "one.png")]
    assert stars[0] > 1.5 * stars[1] > 100  # a star for each bin, and one in the legend
    assert pixels(tmp_path / "front.png", COLOURS[0]) > 20
    assert pixels(tmp_path / "front.png", COLOURS[1]) > 20


def test_only_what_was_scored_in_full_counts(
    histories: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    screened = {name: history.copy() for name, history in histories.items()}
    for name, history in screened.items():
        extra = history.iloc[:3].assign(status="screened", fitness=0.01, nll=0.01)
        screened[name] = pd.concat([history, extra])
    front_picture(histories, tmp_path / "without.png")
    front_picture(screened, tmp_path / "with.png")
    assert (tmp_path / "without.png").read_bytes() == (tmp_path / "with.png").read_bytes()


def test_a_fitness_that_is_no_nll_and_a_cost_that_is_no_size(
    histories: dict[str, pd.DataFrame], tmp_path: Path
) -> None:
    other = {
        name: history.assign(fitness=history["nll"] / 10 - 1, cost=history["cost"] * 1000)
        for name, history in histories.items()
    }
    front_picture(other, tmp_path / "other.png")
    assert pixels(tmp_path / "other.png", FRONT) > 500


def test_one_candidate_is_enough(histories: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    front_picture({"fine-layerwise@40%": histories["fine-layerwise@40%"].iloc[:1]}, tmp_path / "1")
    assert pixels(tmp_path / "1", WINNER) > 100


def test_what_cannot_be_drawn(histories: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing is scored"):
        front_picture({"coarse-uniform@30%": frame([])}, tmp_path / "front.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        front_picture(histories, tmp_path / "file" / "front.png")
