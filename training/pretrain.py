"""Pretrain a checkpoint on Ray Train: the driver's side."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import ray
import torch

from evo.cluster import connect
from evo.cost import parameters
from evo.errors import UserError
from evo.files import atomic_file
from training import log
from training.driver import fit
from training.flops import training_flops
from training.inputs import Inputs, read_inputs
from training.losses import LossSettings
from training.plan import (
    Plan,
    default_batch_tokens,
    default_learning_rate,
    default_micro_batch,
    steps_of,
)
from training.run_directory import claim, settings_hash

ACTIVATION_BYTES = {"cpu": 2**29, "cuda": 8 * 2**30}
"""Memory that a micro-batch's activations may take where no size is given."""


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a pretraining run.

    Attributes:
        model: checkpoint directory of the network to train.
        text: source of the training text; shorter than `tokens`, it is repeated in epochs, each
            in an order of its own.
        tokens: train on at least so many tokens; the last batch is whole.
        out: run directory. Started again with the same settings, a run goes on where it was.
        init: start from the checkpoint's weights, or from random ones in its shape.
        teacher: checkpoint directory to distil from; none: cross-entropy alone.
        alpha: weight of the cross-entropy, where there is a teacher.
        beta: weight of the KL divergence from the teacher.
        temperature: of both networks' distributions in the KL divergence.
        validation_text: source of the validation text; none: no validation.
        validation_tokens: use no more of it, in sequences evenly spaced in the text; by default a
            fiftieth of `tokens`.
        batch_tokens: tokens of a step over all workers; by default about 4 sqrt(`tokens`), and a
            hundredth of `tokens` at most.
        learning_rate: the peak; by default from the number of parameters.
        validate_every: steps between validations; by default a twentieth of the steps. There is
            one before the first step and one after the last in any case.
        checkpoint_every: steps between checkpoints; by default a tenth of the steps, 1000 at most.
        sequence_length: tokens of a sequence; by default the model's block size, 2048 at most.
        seed: of the order of the text, and of random weights.
        workers: how many train in parallel, on the same batches for any number; by default one
            per GPU, or one.
        gpus_per_worker: a share of a GPU, or 0 for the CPU; by default 1 where there are GPUs.
        micro_batch: sequences that run through the model at once; by default as many as fit in
            half a GiB of activations on the CPU, and 8 GiB on a GPU.
        precision: of matrix products; by default bfloat16 on GPUs, float32 on the CPU.
        threads: of each worker on the CPU; by default the cores divided by the workers.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: AdamW's, on matrices only.
        gradient_clip: the largest norm of the gradient.
    """

    model: Path
    text: str
    tokens: int
    out: Path
    init: Literal["weights", "random"] = "weights"
    teacher: Path | None = None
    alpha: float = 0.2
    beta: float = 0.8
    temperature: float = 0.9
    validation_text: str | None = None
    validation_tokens: int | None = None
    batch_tokens: int | None = None
    learning_rate: float | None = None
    validate_every: int | None = None
    checkpoint_every: int | None = None
    sequence_length: int | None = None
    seed: int = 0
    workers: int | None = None
    gpus_per_worker: float | None = None
    micro_batch: int | None = None
    precision: Literal["float32", "bfloat16"] | None = None
    threads: int | None = None
    warmup: float = 0.02
    weight_decay: float = 0.1
    gradient_clip: float = 1.0

    def __post_init__(self) -> None:
        for name in (
            "tokens",
            "validation_tokens",
            "batch_tokens",
            "learning_rate",
            "validate_every",
            "checkpoint_every",
            "workers",
            "micro_batch",
            "threads",
            "temperature",
            "gradient_clip",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{_flag(name)} {value}: it must be more than 0")
        for name in ("alpha", "beta", "weight_decay", "seed", "gpus_per_worker"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UserError(f"{_flag(name)} {value}: it must be 0 or more")
        if self.teacher is not None and self.alpha == self.beta == 0:
            raise UserError("--alpha 0 --beta 0 leaves no loss: make one of them more than 0")
        if not 0 <= self.warmup < 1:
            raise UserError(f"--warmup {self.warmup}: it is a share of the steps, 0 to below 1")
        if self.sequence_length is not None and self.sequence_length < 2:
            raise UserError(
                f"--sequence-length {self.sequence_length} leaves nothing to predict: "
                "give at least 2"
            )
        if self.gpus_per_worker is not None and self.gpus_per_worker > 1:
            raise UserError(
                f"--gpus-per-worker {self.gpus_per_worker}: a worker uses one GPU or a share of one"
            )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def pretrain(config: PretrainConfig) -> dict[str, Any]:
    """Train, or go on with a run that was cut off; a finished one is left alone.

    Leaves `model/` (the checkpoint), `log.jsonl` (a line per step), `settings.yaml` and
    `summary.json` in the run directory, which all workers must be able to reach.

    Returns:
        The summary: `steps`, `tokens`, `flops`, `seconds`, `loss`, `validation_perplexity` where
        there is validation, and `settings`.

    Raises:
        UserError: bad input, a run directory of other settings, or a loss that is not finite.
    """
    inputs = read_inputs(
        model=config.model,
        teacher=config.teacher,
        text=config.text,
        tokens=config.tokens,
        validation_text=config.validation_text,
        validation_tokens=config.validation_tokens or max(2**12, config.tokens // 50),
        sequence_length=config.sequence_length,
    )
    workers, gpus_per_worker = _resources(config)
    plan = _plan(config, inputs, "cuda" if gpus_per_worker else "cpu")
    if plan.batch < workers:
        raise UserError(
            f"a batch of {plan.batch} sequences cannot be shared by {workers} workers: "
            f"give fewer --workers or more --batch-tokens than {plan.tokens_per_step}"
        )
    run = Path(config.out).absolute()
    settings = _settings(config, inputs, plan)
    claim(run, settings)
    if (run / "summary.json").is_file():
        print(f"{run} is finished: nothing is left to do")
        return json.loads((run / "summary.json").read_text())
    fit(
        run,
        plan,
        name=settings_hash(settings),
        student=inputs.student.path.absolute(),
        teacher=None if inputs.teacher is None else inputs.teacher.path.absolute(),
        text=inputs.text.blocks,
        validation=None if inputs.validation is None else inputs.validation.blocks,
        origin=_origin(inputs.student.path, settings),
        checkpoint_every=config.checkpoint_every or min(1000, max(1, plan.steps // 10)),
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        threads=config.threads,
    )
    return _finish(run, settings)


def _resources(config: PretrainConfig) -> tuple[int, float]:
    """How many workers, and what share of a GPU each of them has."""
    share = config.gpus_per_worker
    gpus = 0.0 if share == 0 else _available_gpus()
    if share is None:
        share = 1.0 if gpus else 0.0
    if share == 0:
        return config.workers or 1, 0.0
    workers = config.workers or max(1, int(gpus / share))
    if workers * share > gpus + 1e-9:
        raise UserError(
            f"{workers} workers with {share:g} GPUs each need more than the {gpus:g} "
            "GPUs there are: give fewer --workers or a smaller --gpus-per-worker"
        )
    return workers, share


def _available_gpus() -> float:
    """GPUs of the cluster, or of this machine where Ray is not running yet."""
    if ray.is_initialized() or os.environ.get("RAY_ADDRESS"):
        connect()
        return float(ray.cluster_resources().get("GPU", 0.0))
    return float(torch.cuda.device_count())


def _plan(config: PretrainConfig, inputs: Inputs, device: Literal["cpu", "cuda"]) -> Plan:
    student, teacher, length = inputs.student, inputs.teacher, inputs.sequence_length
    batch = max(1, (config.batch_tokens or default_batch_tokens(config.tokens)) // length)
    steps = steps_of(config.tokens, batch * length)
    size = parameters(student.architecture, student.widths)
    width = student.widths.channels * student.widths.layers
    loss = LossSettings()
    if teacher is not None:
        common = min(student.vocabulary, teacher.vocabulary)
        loss = LossSettings(config.alpha, config.beta, config.temperature, common)
    return Plan(
        init=config.init,
        steps=steps,
        batch=batch,
        sequence_length=length,
        micro_batch=config.micro_batch
        or default_micro_batch(batch, length, width, ACTIVATION_BYTES[device]),
        learning_rate=config.learning_rate or default_learning_rate(size),
        warmup_steps=round(config.warmup * steps),
        weight_decay=config.weight_decay,
        gradient_clip=config.gradient_clip,
        validate_every=0
        if inputs.validation is None
        else config.validate_every or max(1, steps // 20),
        seed=config.seed,
        precision=config.precision or ("bfloat16" if device == "cuda" else "float32"),
        device=device,
        loss=loss,
        flops_per_token=training_flops(
            (student.architecture, student.widths),
            None if teacher is None else (teacher.architecture, teacher.widths),
            length,
        ),
    )


def _settings(config: PretrainConfig, inputs: Inputs, plan: Plan) -> dict[str, Any]:
    """All that the result depends on, as plain values."""
    teacher, validation = inputs.teacher, inputs.validation
    return {
        "model": str(config.model),
        "model_hash": inputs.student.hash,
        "teacher": None if teacher is None else str(config.teacher),
        "teacher_hash": None if teacher is None else teacher.hash,
        "text": config.text,
        "text_hash": inputs.text.hash,
        "text_tokens": inputs.text.tokens,
        "validation_text": config.validation_text,
        "validation_hash": None if validation is None else validation.hash,
        "validation_tokens": None if validation is None else validation.tokens,
        **asdict(plan),
    }


def _origin(directory: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Where the checkpoint came from, with this run added to how it was trained."""
    path = directory / "subnet.json"
    origin: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    trained = origin.pop("pretraining", [])
    return origin | {"pretraining": [*trained, settings]}


def _finish(run: Path, settings: dict[str, Any]) -> dict[str, Any]:
    last = log.rows(run)[-1]
    names = ("steps", "tokens", "flops", "seconds", "loss", "validation_perplexity")
    summary = {
        name: last["step" if name == "steps" else name]
        for name in names
        if name in last or name == "steps"
    }
    summary["settings"] = settings
    with atomic_file(run / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return summary
