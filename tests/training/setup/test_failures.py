"""Which failures of workers are tried again, and how they are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ray.exceptions import RayActorError
from ray.train import TrainingFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from evo.errors import UserError
from tests.support import tiny_checkpoints
from training.config import PretrainConfig
from training.pretrain import pretrain
from training.setup import launch
from training.setup.failures import may_pass, reason
from training.setup.training_run import TrainingRun


def of(*failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("a traceback", dict(enumerate(failures)))


@pytest.mark.parametrize(
    ("error", "workers", "again"),
    [
        (of(ValueError("a shape")), 1, False),
        (of(RuntimeError("a shape")), 1, False),
        (of(FileNotFoundError("a file")), 2, False),
        (of(ConnectionResetError("a peer")), 1, True),
        (of(RuntimeError("Connection closed by peer")), 2, True),
        (of(RayActorError()), 1, True),
        (of(ValueError("a shape"), RayActorError()), 2, True),
        (ControllerError(RuntimeError("of Ray")), 1, True),
    ],
)
def test_a_death_is_tried_again_and_an_exception_is_not(
    error: TrainingFailedError, workers: int, again: bool
) -> None:
    assert may_pass(error, workers) == again


def test_a_reason_is_one_line() -> None:
    assert reason(UserError("a line\n  and another")) == "a line and another"
    assert reason(of(MemoryError())) == "MemoryError: MemoryError"
    assert reason(KeyError("x")) == "KeyError: 'x'"


def launch_with_a_defect(run: TrainingRun) -> None:
    """Workers divide by the size of the micro-batch."""
    launch.launch_on_ray_train(replace(run, settings=replace(run.settings, micro_batch=0)))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("shared_ray")
def test_a_defect_ends_a_run_at_its_first_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "MOST_FAILURES", 10**9)
    config = PretrainConfig(
        model=tiny_checkpoints.neox(tmp_path / "model"),
        text=tiny_checkpoints.text(tmp_path / "text.npy"),
        tokens=680,
        out=tmp_path / "run",
        workers=1,
        threads=1,
        gpus_per_worker=0,
        loggers=[],
    )
    with pytest.raises(TrainingFailedError) as raised:
        pretrain(config, launch=launch_with_a_defect)
    assert raised.value.__cause__ is not raised.value
    assert reason(raised.value).startswith("ZeroDivisionError: ")
