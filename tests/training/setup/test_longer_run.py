"""More tokens for a pretraining run that is there, without Ray."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evo.errors import UserError
from tests.support import finished, tiny_checkpoints
from tests.support.alone import launch_here
from tests.training.loop.test_kept_checkpoints import assert_same, kept
from training.config import PretrainConfig
from training.logs import log
from training.pretrain import pretrain
from training.setup.training_run import TrainingRun

TOKENS = 68
"""Of a step."""

WSD: dict[str, Any] = {"schedule": "wsd", "decay": 0.25, "loggers": [], "warmup": 0.2}
OPEN: dict[str, Any] = {"batch_tokens": None, "validate_every": None, "warmup": None}
"""These have defaults by the tokens."""


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """Twelve steps, the last three of which decay, after two of warm-up; finished."""
    return finished.pretrained(tmp_path_factory.mktemp("short"), **WSD, checkpoint_every=5)


def copied(short: PretrainConfig, directory: Path, **changes: Any) -> PretrainConfig:
    shutil.copytree(short.out, directory)
    return replace(short, out=directory, **changes)


def test_the_checkpoint_before_the_decay_is_kept(short: PretrainConfig) -> None:
    assert kept(short.out) == [9]


@pytest.mark.parametrize("steps", [pytest.param(13, marks=pytest.mark.slow), 24])
def test_a_longer_run_shares_its_trunk(steps: int, short: PretrainConfig, tmp_path: Path) -> None:
    more = {"tokens": steps * TOKENS}
    at_once = replace(short, out=tmp_path / "at-once", **more, warmup=2.0)
    pretrain(at_once, launch=launch_here)
    assert log.last_step(at_once.out) == steps

    longer = copied(short, tmp_path / "longer", **more, **OPEN)
    begun_at = []

    def launch(run: TrainingRun) -> None:
        begun_at.append(kept(run.directory))
        assert not (run.directory / "summary.json").exists()
        assert not (run.directory / "model").exists()
        launch_here(run)

    pretrain(longer, launch=launch)
    assert begun_at == [[9]]
    assert_same(longer.out, at_once.out)
    assert kept(longer.out) == kept(at_once.out)
    pretrain(longer, launch=launch)  # it is finished
    assert len(begun_at) == 1


def test_cut_off_in_its_decay_it_goes_back_to_the_trunk(
    short: PretrainConfig, tmp_path: Path
) -> None:
    cut_off = copied(short, tmp_path / "run")
    (cut_off.out / "summary.json").unlink()
    (cut_off.out / "checkpoints" / "step-9").rename(cut_off.out / "checkpoints" / "step-10")
    with pytest.raises(UserError, match="has no checkpoint up to step 9, after which a learning"):
        pretrain(replace(cut_off, tokens=24 * TOKENS, **OPEN), launch=launch_here)
    assert kept(cut_off.out) == [10]
    shutil.copytree(short.out / "checkpoints" / "step-9", cut_off.out / "checkpoints" / "step-9")
    pretrain(replace(cut_off, tokens=24 * TOKENS, **OPEN), launch=launch_here)
    assert kept(cut_off.out) == [18]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 11 * TOKENS}, "--tokens, in steps, was 12, now it is 11: give no fewer tokens"),
        ({"decay": 0.5}, r"--decay, in steps, was 3, now it is 6; give what it was begun with"),
        ({"tokens": 24 * TOKENS, "seed": 1}, "--seed was 0, now it is 1"),
        ({"tokens": 24 * TOKENS}, "--warmup, in steps, was 2, now it is 5"),
        (
            {"tokens": 24 * TOKENS, "schedule": "cosine", **OPEN},
            "--schedule was wsd, now it is not",
        ),
        (
            {"tokens": 13 * TOKENS, "decay": 0.5, **OPEN},
            "has no checkpoint up to step 7, after which a learning rate falls",
        ),
        ({"warmup": 12.0}, "--warmup 12: the run has only 12 steps"),
    ],
)
def test_what_is_no_longer_run_is_refused(
    changes: dict[str, Any], message: str, short: PretrainConfig
) -> None:
    with pytest.raises(UserError, match=message):
        pretrain(replace(short, **changes), launch=launch_here)
    assert (short.out / "summary.json").is_file()


def test_a_cosine_says_what_would_do(tmp_path: Path) -> None:
    config = finished.pretrained(tmp_path, loggers=[])
    with pytest.raises(
        UserError, match=r"a cosine's course depends .* --schedule wsd .* by --resu"
    ):
        pretrain(replace(config, tokens=24 * TOKENS, **OPEN), launch=launch_here)
    assert (config.out / "summary.json").is_file()


def test_other_weights_of_the_texts_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        tiny_checkpoints.text(tmp_path / f"{name}.npy", seed=ord(name))
    texts = [str(tmp_path / f"{name}.npy") for name in "ab"]
    config = finished.pretrained(tmp_path, **WSD, text=texts, text_weights=[1.0, 1.0])
    other = replace(config, tokens=24 * TOKENS, text_weights=[3.0, 1.0], **OPEN)
    with pytest.raises(UserError, match=r"--text-weights was 0\.5 0\.5, now it is 0\.75 0\.25"):
        pretrain(other, launch=launch_here)


def test_a_worker_of_the_shorter_run_commits_nothing_to_the_longer(
    short: PretrainConfig, tmp_path: Path
) -> None:
    """It may outlive its driver, which was killed."""
    run = copied(short, tmp_path / "run")
    shutil.rmtree(run.out / "checkpoints")
    (run.out / "summary.json").unlink()

    def launch(job: TrainingRun) -> None:
        settings = (run.out / "settings.yaml").read_text()
        (run.out / "settings.yaml").write_text(settings.replace("steps: 12\n", "steps: 24\n", 1))
        launch_here(job)

    with pytest.raises(UserError, match="was made a run of other --tokens meanwhile"):
        pretrain(run, launch=launch)
    assert kept(run.out) == []
