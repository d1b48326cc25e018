"""A train-off as its driver holds it: what was asked for, checked, and a run for each finalist."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from evo.errors import UserError
from evo.model import checkpoint
from evo.search.winner import searched_teacher
from training.config import PretrainConfig, TrainingConfig
from training.selection import finalists as finalist_files
from training.selection.config import SelectConfig, default_out
from training.selection.finalists import Finalist, bin_of, choose
from training.selection.rounds import Round, plan_rounds
from training.setup.resolve import resolve
from training.setup.training_run import TrainingRun, open_run

MODELS = "finalists"
RUNS = "runs"

FREE = (
    "run", "model", "teacher", "teacher_logits", "text", "validation_text", "text_field",
    "on_bad_line", "bos",
)  # fmt: skip
"""Recorded settings that may differ at every start: paths, beside which there are hashes."""

OF_A_SIZE = ("learning_rate", "micro_batch", "flops_per_token")
"""Settings in numbers whose defaults depend on the network's size."""


@dataclass(frozen=True)
class TrainOff:
    """A train-off of one bin.

    Attributes:
        config: the settings that the user has given.
        bin: the bin.
        out: directory of the train-off, as the user named it.
        finalists: who takes part.
        whole: the planned run, with the searched teacher in a finalist's place.
        rounds: the rounds.
    """

    config: SelectConfig
    bin: str
    out: Path
    finalists: list[Finalist]
    whole: TrainingRun
    rounds: list[Round]

    @property
    def directory(self) -> Path:
        """The directory of the train-off, absolute."""
        return self.out.absolute()

    @property
    def shared(self) -> bool:
        """Whether several workers train a finalist together."""
        return self.config.workers_per_finalist > 1

    @property
    def targets(self) -> int:
        """The tokens of the validation text that are predicted."""
        assert self.whole.inputs.validation is not None
        sequences, length = self.whole.inputs.validation.blocks.shape
        return sequences * (length - 1)

    @property
    def recorded(self) -> dict[str, Any]:
        """Everything on which the result depends, as plain values for `settings.yaml`."""
        config = self.config
        planned = {k: v for k, v in self.whole.recorded.items() if k not in OF_A_SIZE}
        return {
            "run": str(config.run),
            "bin": self.bin,
            "finalists": config.finalists,
            "share": config.share,
            "threads": config.threads,
            "learning_rate": config.learning_rate,
            "micro_batch": config.micro_batch,
            **planned,
        }

    def pretraining(self, finalist: Finalist) -> PretrainConfig:
        """The settings of the planned run of a finalist, as `evo pretrain` takes them."""
        return replace(
            _planned(
                self.config,
                model=self.out / MODELS / finalist.candidate,
                out=self.out / RUNS / finalist.candidate,
            ),
            workers=self.config.workers_per_finalist if self.shared else None,
            threads=self.config.threads if self.whole.settings.device == "cpu" else None,
        )

    def run_of(self, finalist: Finalist) -> TrainingRun:
        """The planned run of a finalist, whose checkpoint has been cut out."""
        whole = self.whole
        inputs = replace(
            whole.inputs, student=checkpoint.load(self.directory / MODELS / finalist.candidate)
        )
        config = replace(
            whole.config,
            model=inputs.student.path,
            out=self.directory / RUNS / finalist.candidate,
        )
        settings = resolve(config, inputs, whole.settings.device)
        return replace(
            whole, directory=Path(config.out), config=config, inputs=inputs, settings=settings
        )


def open_train_off(config: SelectConfig) -> TrainOff:
    """Read and check everything that a train-off needs; nothing is written.

    Raises:
        UserError: bad input.
    """
    bin = bin_of(config.run, config.bin)
    out = config.out or default_out(config.run, bin)
    finalists = finalist_files.load(out) or choose(config.run, bin, config.finalists)
    teacher = searched_teacher(config.run)
    whole, last = planned_run(config, teacher.path, out)
    # The same checkpoint, whose hash is known already.
    whole = replace(whole, inputs=replace(whole.inputs, student=teacher))
    return TrainOff(config, bin, out, finalists, whole, plan_rounds(len(finalists), last))


def planned_run(config: SelectConfig, teacher: Path, out: Path) -> tuple[TrainingRun, int]:
    """The planned run with the searched teacher in a finalist's place, and a train-off's last step.

    A search that a train-off is to follow checks its settings by this before it begins.

    Args:
        config: the settings that the user has given.
        teacher: checkpoint directory of the teacher that is searched.
        out: directory of the train-off.

    Raises:
        UserError: bad input.
    """
    try:
        whole = open_run(_planned(config, model=teacher, out=out))
    except UserError as error:  # here, --workers is the number of finalists at a time
        hint = str(error).replace("--workers", "--workers-per-finalist")
        raise UserError(hint) from error
    steps = whole.settings.steps
    last, stable = round(config.share * steps), steps - whole.settings.decay_steps
    if last > stable:
        raise UserError(
            f"--share {config.share:g} ends at step {last} of {steps}, and from step {stable} on "
            "the learning rate falls: give a smaller --share or --decay"
        )
    return whole, last


def _planned(config: SelectConfig, *, model: Path, out: Path) -> PretrainConfig:
    """The planned run of a checkpoint."""
    common = {field.name: getattr(config, field.name) for field in fields(TrainingConfig)}
    return PretrainConfig(
        **common,
        model=model,
        out=out,
        schedule="wsd",
        workers=config.workers_per_finalist,
        threads=config.threads,
    )
