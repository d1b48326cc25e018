"""Checkpoints that are kept, and going on from an older one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from evo.errors import UserError
from evo.model import checkpoint
from tests.support import finished
from tests.support.alone import launch_here
from training.config import PretrainConfig
from training.logs import log
from training.loop.train_state import Keep
from training.pretrain import pretrain
from training.run_directory import STOP
from training.setup.training_run import TrainingRun


def kept(run: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*"))


def rows(run: Path) -> list[dict[str, object]]:
    return [{k: v for k, v in row.items() if k not in log.MEASURED} for row in log.rows(run)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """Twelve steps with a checkpoint after every second, of which the last two are kept, and every
    fifth."""
    root = tmp_path_factory.mktemp("kept")
    return finished.pretrained(
        root, checkpoint_every=2, keep_checkpoints=2, keep_every=5, loggers=[]
    )


def assert_same(one: Path, other: Path) -> None:
    assert rows(one) == rows(other)
    theirs = checkpoint.load(other / "model").weights
    for name, tensor in checkpoint.load(one / "model").weights.items():
        assert tensor.equal(theirs[name])


def test_the_last_ones_and_every_nth_are_kept(whole: PretrainConfig) -> None:
    assert kept(whole.out) == [5, 10, 12]
    assert Keep() == Keep(1, None)
    assert not Keep().after_the_end(12)


def test_by_default_none_is_left_at_the_end(tmp_path: Path) -> None:
    config = finished.pretrained(tmp_path, loggers=[])
    assert not (config.out / "checkpoints").exists()


def test_without_the_newer_ones_the_same_command_goes_on_from_an_older(
    whole: PretrainConfig, tmp_path: Path
) -> None:
    shutil.copytree(whole.out, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    for step in (10, 12):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step}")
    pretrain(replace(whole, out=tmp_path / "run"), launch=launch_here)
    assert_same(tmp_path / "run", whole.out)
    assert kept(tmp_path / "run") == [5, 10, 12]


def test_another_run_begins_from_an_older_one(whole: PretrainConfig, tmp_path: Path) -> None:
    older = whole.out / "checkpoints" / "step-5"
    same = replace(whole, out=tmp_path / "same", resume_from=older)
    pretrain(same, launch=launch_here)
    assert_same(same.out, whole.out)
    other = replace(same, out=tmp_path / "other", learning_rate=1e-4, seed=7, weight_decay=0.0)
    pretrain(other, launch=launch_here)
    assert rows(other.out)[:6] == rows(whole.out)[:6]
    assert rows(other.out)[6:] != rows(whole.out)[6:]
    assert log.last_step(other.out) == 12
    assert f"resume_from: {older}" in (other.out / "settings.yaml").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_tokens": 34}, "--batch-tokens, in sequences, was 4, now it is 2"),
        ({"tokens": 3 * 68}, "this run has only 3 steps"),
        ({"resume_from": Path("nowhere/step-5")}, "it is no checkpoint"),
    ],
)
def test_what_does_not_fit_leaves_nothing_behind(
    whole: PretrainConfig, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    older = whole.out / "checkpoints" / "step-5"
    config = replace(whole, **{"out": tmp_path / "new", "resume_from": older} | changes)
    with pytest.raises(UserError, match=message):
        pretrain(config, launch=launch_here)
    assert not (tmp_path / "new").exists()


def test_a_run_that_is_asked_to_end_writes_a_checkpoint_first_and_goes_on(
    whole: PretrainConfig, tmp_path: Path
) -> None:
    config = replace(whole, out=tmp_path / "run", checkpoint_every=100, keep_every=None)

    def asked(run: TrainingRun) -> None:
        (run.directory / STOP).touch()
        launch_here(run)

    for step in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, launch=asked)
        assert kept(config.out)[-1] == log.last_step(config.out) == step
        assert not (config.out / STOP).exists()
        assert not (config.out / "summary.json").exists()
    pretrain(config, launch=launch_here)
    assert_same(config.out, whole.out)
