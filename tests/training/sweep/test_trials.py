from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evo.errors import UserError
from training.sweep.trials import Trial, make_trials


def trials(
    grid: list[str] | None = None, random: list[str] | None = None, samples: int = 1, seed: int = 0
) -> list[Trial]:
    return make_trials(grid or [], random or [], samples, np.random.default_rng(seed))


def test_every_combination_of_the_grid_once() -> None:
    found = trials(["alpha=0.1,0.2", "learning-rate=1e-3,2e-3", "init=weights,random"])
    assert [trial.settings for trial in found] == [
        {"alpha": alpha, "learning_rate": rate, "init": init}
        for alpha in (0.1, 0.2)
        for rate in (0.001, 0.002)
        for init in ("weights", "random")
    ]
    assert found[0].name == "000_alpha=0.1_learning_rate=0.001_init=weights"
    assert len({trial.name for trial in found}) == 8


def test_values_have_their_fields_types() -> None:
    (one,) = trials(["teacher=null", "seed=3", "batch_tokens=64", "text=a/b.npy"])
    assert one.settings == {"teacher": None, "seed": 3, "batch_tokens": 64, "text": "a/b.npy"}
    assert one.name == "000_teacher=None_seed=3_batch_tokens=64_text=b.npy"
    two = trials(["teacher=null,teachers/a"])[1]
    assert two.settings == {"teacher": Path("teachers/a")}


def test_drawn_values_are_in_their_ranges_and_spread_as_they_should() -> None:
    found = trials(
        ["init=weights,random"],
        ["learning_rate=log:1e-4..1e-2", "alpha=0..1", "seed=log:1..8", "temperature=1,2"],
        samples=400,
    )
    assert len(found) == 800
    rates = np.array([trial.settings["learning_rate"] for trial in found])
    assert (rates >= 1e-4).all()
    assert (rates <= 1e-2).all()
    assert np.mean(rates < 1e-3) == pytest.approx(0.5, abs=0.06)  # half the logarithm's range
    alphas = [trial.settings["alpha"] for trial in found]
    assert np.mean(alphas) == pytest.approx(0.5, abs=0.05)
    assert {trial.settings["seed"] for trial in found} == set(range(1, 9))
    assert {trial.settings["temperature"] for trial in found} == {1.0, 2.0}
    assert {trial.settings["init"] for trial in found[:2]} == {"weights", "random"}


def test_the_same_seed_draws_the_same_and_more_samples_only_add() -> None:
    few = trials([], ["learning_rate=log:1e-4..1e-2"], samples=3)
    more = trials([], ["learning_rate=log:1e-4..1e-2"], samples=5)
    assert more[:3] == few
    assert trials([], ["learning_rate=log:1e-4..1e-2"], samples=3, seed=1) != few


def test_what_is_drawn_again_is_not_run_again() -> None:
    assert len(trials([], ["init=weights,random"], samples=50)) == 2


@pytest.mark.parametrize(
    ("grid", "random", "samples", "message"),
    [
        ([], [], 1, "nothing to try"),
        (["alhpa=0.1"], [], 1, "has no setting alhpa; it has alpha"),
        (["alpha=x"], [], 1, "--alpha x: give a number"),
        (["init=weights,warm"], [], 1, "--init warm: give one of weights, random"),
        (["batch_tokens=0.5"], [], 1, "--batch-tokens 0.5: give a whole number"),
        (["alpha="], [], 1, "give alpha=VALUE,VALUE"),
        (["alpha=0.1,0.1"], [], 1, "the same value twice"),
        (["alpha=0.1", "alpha=0.2"], [], 1, "alpha is named twice"),
        (["alpha=0.1"], ["alpha=0..1"], 1, "name it in one of them"),
        (["alpha=0.1,0.2"], [], 4, "--samples 4 draws nothing"),
        (["validation_text=a,b"], [], 1, "the same validation_text"),
        (["out=a,b"], [], 1, "the same out"),
        ([], ["learning_rate=log:0..1"], 1, "must be more than 0"),
        ([], ["learning_rate=2..1"], 1, "must be rising"),
        ([], ["learning_rate=1..x"], 1, "--learning-rate x: give a number"),
    ],
)
def test_refused_in_one_line(
    grid: list[str], random: list[str], samples: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        trials(grid, random, samples)
