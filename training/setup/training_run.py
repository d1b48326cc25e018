"""A pretraining run as its driver holds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from evo.data.hub import pin_optional, pin_sources
from evo.errors import UserError
from evo.model.checkpoint import Checkpoint
from evo.storage.records import read_json_if_there
from training.config import PretrainConfig
from training.data.sampler import Sampler
from training.loop.parallel import Execution
from training.loop.run_settings import BLOCK_BYTES, RunSettings
from training.loop.train_state import Keep, WorkerJob
from training.run_directory import SUMMARY, checkpoints_of
from training.setup.inputs import Inputs, Teacher, read_inputs
from training.setup.memory import MemoryDemand, NetworkSizes
from training.setup.older_checkpoint import check_older
from training.setup.resolve import resolve
from training.setup.worker_resources import workers_and_gpus
from training.teacher.stored_logits import TeacherLogits


class Origin(TypedDict):
    """What a checkpoint's `subnet.json` says of the runs that have trained it."""

    pretraining: NotRequired[list[Any]]


@dataclass(frozen=True)
class TrainingRun:
    """A pretraining run as its driver holds it.

    Attributes:
        directory: the run directory, absolute, on a file system that all workers share.
        config: the settings that the user has given, with the commits of the hub's data sets.
        inputs: what the run reads.
        settings: the settings in numbers.
        workers: number of workers that train in parallel.
        gpus_per_worker: share of a GPU for each worker, 0 for the CPU.
    """

    directory: Path
    config: PretrainConfig
    inputs: Inputs
    settings: RunSettings
    workers: int
    gpus_per_worker: float

    @cached_property
    def recorded(self) -> dict[str, Any]:
        """Everything on which the result depends, as plain values for `settings.yaml`."""
        config, text, validation = self.config, self.inputs.text, self.inputs.validation
        network, logits = self.inputs.running_teacher, self.inputs.teacher_logits
        teacher_hash = None if network is None else network.hash
        return {
            "model": str(config.model.absolute()),
            "model_hash": self.inputs.student.hash,
            "teacher": None if config.teacher is None else str(config.teacher),
            "teacher_hash": teacher_hash if logits is None else logits.settings.teacher_hash,
            "teacher_logits": None if logits is None else str(config.teacher_logits),
            "teacher_logits_hash": None if logits is None else logits.hash,
            "teacher_logits_flops": None if logits is None else logits.settings.flops,
            "text": config.sources,
            "text_hash": text.hash,
            "text_tokens": text.tokens,
            "text_shares": list(text.shares),
            **config.reading.changes,
            "validation_text": config.validation_text,
            "validation_hash": None if validation is None else validation.hash,
            "validation_tokens": None if validation is None else validation.tokens,
            **self.settings.recorded,
            **({} if self.resume_from is None else {"resume_from": str(self.resume_from)}),
        }

    @property
    def origin(self) -> dict[str, Any]:
        """The student's `subnet.json` with this run added to those that have trained it."""
        path = self.inputs.student.path / "subnet.json"
        origin = read_json_if_there(path, Origin) or {}
        trained = origin.get("pretraining", [])
        return {**origin, "pretraining": [*trained, self.recorded]}

    @property
    def executions(self) -> tuple[Execution, ...]:
        """The executions that the user allows, the one with the least communication first."""
        config = self.config
        shard_teacher = [False, True] if config.shard_teacher is None else [config.shard_teacher]
        spreads: list[tuple[Literal["ddp", "fsdp"], bool]] = [
            ("ddp", False), ("fsdp", False), ("fsdp", True)
        ]  # fmt: skip
        return tuple(
            Execution(parallel, shard, each, config.activation_checkpointing, config.compile)
            for shard in (shard_teacher if self.inputs.running_teacher is not None else [False])
            for parallel, each in spreads
            if config.parallel in ("auto", parallel)
        )

    @property
    def demand(self) -> MemoryDemand:
        """What the run asks of its workers' memory."""
        settings, student = self.settings, self.inputs.student
        teacher = self.inputs.running_teacher
        channels, layers = student.widths.channels, student.widths.layers
        kept = BLOCK_BYTES * channels * layers
        if self.config.activation_checkpointing:
            kept = 4 * channels * layers + BLOCK_BYTES * channels  # float32 inputs, and one block
        return MemoryDemand(
            student=NetworkSizes.of(student),
            teacher=None if teacher is None else NetworkSizes.of(teacher),
            teacher_bytes=2 if settings.precision == "bfloat16" else 4,
            activations=settings.micro_batch * settings.sequence_length * kept,
            executions=self.executions,
        )

    def job(self, *, text: tuple[Any, ...], validation: Any, threads: int) -> WorkerJob:
        """What each worker is given.

        Blocks may be references to them; `validation` is None without it.
        """
        settings, sources = self.settings, self.inputs.text
        extents = tuple(source.extent for source in sources.sources)
        return WorkerJob(
            settings=settings,
            directory=self.directory,
            student=self.inputs.student.path.absolute(),
            teacher=_located(self.inputs.teacher),
            sampler=Sampler(settings.batch, extents, sources.shares, settings.seed),
            text=text,
            validation=validation,
            origin=self.origin,
            threads=threads,
            execution=self.executions[0],
            keep=self.keep,
            resume_from=self.resume_from,
        )

    @property
    def keep(self) -> Keep:
        """Which checkpoints are kept."""
        settings = self.settings
        trunk = settings.steps - settings.decay_steps if settings.schedule == "wsd" else None
        return Keep(self.config.keep_checkpoints, self.config.keep_every, trunk)

    @property
    def resume_from(self) -> Path | None:
        """The checkpoint of another run that this one begins from, absolute."""
        path = self.config.resume_from
        return None if path is None else path.absolute()


Launch = Callable[[TrainingRun], None]
"""Trains to a run's end, from the last checkpoint in its directory if there is one."""


def open_run(config: PretrainConfig) -> TrainingRun:
    """Read and check everything that a run needs, and resolve its settings.

    Raises:
        UserError: bad input.
    """
    directory = Path(config.out).absolute()
    text = pin_sources(config.sources, directory, "text")
    validation_text = pin_optional(config.validation_text, directory, "validation_text")
    config = replace(config, text=text, validation_text=validation_text)
    inputs = read_inputs(config)
    workers, gpus_per_worker = workers_and_gpus(config.workers, config.gpus_per_worker)
    settings = resolve(config, inputs, "cuda" if gpus_per_worker else "cpu")
    if settings.batch < workers:
        raise UserError(
            f"a batch of {settings.batch} sequences cannot be shared by {workers} workers: "
            f"give fewer --workers or more --batch-tokens than {settings.tokens_per_step}"
        )
    run = TrainingRun(directory, config, inputs, settings, workers, gpus_per_worker)
    has_begun = bool(checkpoints_of(directory)) or (directory / SUMMARY).is_file()
    if run.resume_from is not None and not has_begun:
        check_older(run.resume_from, run.recorded, settings.steps)
    return run


def _located(teacher: Teacher | None) -> Path | TeacherLogits | None:
    """A teacher as workers find it, wherever they run."""
    if isinstance(teacher, Checkpoint):
        return teacher.path.absolute()
    if isinstance(teacher, TeacherLogits):
        return replace(teacher, directory=teacher.directory.absolute())
    return None
