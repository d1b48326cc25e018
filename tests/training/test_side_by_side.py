"""Runs side by side on a real Ray are what they are alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evo.errors import UserError
from tests.support import tiny_checkpoints
from tests.support.alone import launch_here
from tests.training.test_pretrain import assert_loggers_show_the_log, assert_same_run
from training.config import PretrainConfig
from training.pretrain import pretrain
from training.side_by_side import pretrain_side_by_side

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]

STEPS, BATCH, LENGTH = 12, 4, 17


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        model=tiny_checkpoints.neox(tmp_path / "model"),
        text=tiny_checkpoints.text(tmp_path / "text.npy"),
        tokens=STEPS * BATCH * LENGTH,
        out=tmp_path / "weights",
        validation_text=tiny_checkpoints.text(tmp_path / "validation.npy", blocks=9, seed=1),
        batch_tokens=BATCH * LENGTH,
        learning_rate=1e-2,
        validate_every=8,
        threads=1,
        gpus_per_worker=0,
        loggers=["tensorboard", "csv"],
    )


@pytest.mark.slow
def test_they_are_what_they_are_alone_and_one_that_diverges_is_named(
    config: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = replace(config, out=tmp_path / "random", init="random")
    wild = replace(config, out=tmp_path / "wild", learning_rate=1e30, gradient_clip=1e30)
    pretrain_side_by_side("both", [config, random])
    assert f"{2 * STEPS} of {2 * STEPS} steps" in capsys.readouterr().err
    for run in (config, random):
        alone = replace(run, out=tmp_path / "alone" / run.out.name)
        pretrain(alone, launch=launch_here)
        assert_same_run(run.out, alone.out)
        assert (run.out / "summary.json").is_file()
        assert not (run.out / "checkpoints").exists()
    assert_loggers_show_the_log(random.out)

    before = (random.out / "summary.json").stat().st_mtime_ns
    with pytest.raises(UserError, match=f"{wild.out}: the loss is nan at step"):
        pretrain_side_by_side("both", [random, wild])
    assert (random.out / "summary.json").stat().st_mtime_ns == before
    assert not (wild.out / "summary.json").exists()
