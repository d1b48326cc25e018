"""Pretrain a checkpoint on Ray Train: the driver's side."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from evo.data.revisions import pin_sources
from evo.errors import UserError
from evo.storage.files import atomic_file, exclusive
from evo.storage.strict_json import dumps
from training.logs import log
from training.logs.loggers import LoggerName, check_loggers, open_loggers
from training.logs.progress import progress_display
from training.logs.tail import Watcher
from training.loop.plan import DivergenceKind, Tail
from training.run_directory import CHECKPOINTS, RESULT, SUMMARY, claim


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a pretraining run.

    Attributes:
        model: checkpoint directory of the network to train.
        text: sources of the training text; one that is too short is repeated in epochs, each in
            an order of its own. Data sets of the hub, and files of more than 1 GiB, are read as
            streams; a directory of `evo prepare` may be of any size.
        tokens: train on at least so many tokens; the last batch is whole.
        out: run directory. Started again with the same settings, a run goes on where it was.
        text_weights: how much each source of a mixed text counts; by default by its tokens.
        shuffle_tokens: a stream is shuffled in windows of so many tokens, of which each node of the
            cluster holds three in memory.
        log_blocks: whether to log which blocks each step had, and not only their hash.
        init: start from the checkpoint's weights, or from random ones in its shape.
        teacher: checkpoint directory to distil from; none: cross-entropy alone.
        teacher_logits: a directory of `evo cache-logits` to distil from, instead of running the
            teacher; with --teacher beside it, it must be that teacher's.
        alpha: weight of the cross-entropy, where there is a teacher.
        beta: weight of the divergence from the teacher.
        temperature: of both networks' distributions in the divergence.
        divergence: from the teacher p to the student q: KL(p || q), KL(q || p), the mean of both,
            or Jensen-Shannon's.
        top_k: only over the teacher's so many likeliest tokens at each position; by default over
            the full vocabulary, or all that --teacher-logits keep.
        tail: with --top-k, of all other tokens: they count as one (bucket), or are left out and
            both distributions are renormalised.
        validation_text: source of the validation text; none: no validation.
        validation_tokens: use no more of it, in sequences evenly spaced in the text; by default a
            fiftieth of `tokens`.
        batch_tokens: tokens of a step over all workers; by default about 4 sqrt(`tokens`), and a
            hundredth of `tokens` at most.
        learning_rate: the peak; by default from the number of parameters.
        validate_every: steps between validations; by default a twentieth of the steps. There is
            one before the first step and one after the last in any case.
        checkpoint_every: steps between checkpoints; by default a tenth of the steps, 1000 at most.
        sequence_length: tokens of a sequence; by default that of --teacher-logits, else the
            model's block size, 2048 at most.
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
        parallel: every worker holds the whole network in training (ddp), or its part of weights,
            gradients and optimiser states (fsdp); auto: fsdp where the whole would fill more than
            80% of a GPU's memory, or of a worker's part of the memory that Ray counts on CPUs.
        shard_teacher: whether each worker holds only its part of the teacher; by default where
            it does not fit beside the student.
        activation_checkpointing: keep blocks' inputs alone and run blocks again in the backward
            pass: a third more FLOPs than are counted, for a fraction of the activations' memory.
        compile: run blocks through torch.compile.
        on_nan: of a step whose loss or gradient is not finite: end the run, or leave the step's
            update out and count it; ten such steps in a row end the run.
        loggers: copies of log.jsonl that are kept beside it: tensorboard, wandb, csv; any number.
    """

    model: Path
    text: list[str] | str
    tokens: int
    out: Path
    text_weights: list[float] | None = None
    shuffle_tokens: int = 2**23
    init: Literal["weights", "random"] = "weights"
    teacher: Path | None = None
    teacher_logits: Path | None = None
    alpha: float = 0.2
    beta: float = 0.8
    temperature: float = 0.9
    divergence: DivergenceKind = "forward-kl"
    top_k: int | None = None
    tail: Tail = "bucket"
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
    log_blocks: bool = False
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    shard_teacher: bool | None = None
    activation_checkpointing: bool = False
    compile: bool = False
    on_nan: Literal["stop", "skip"] = "stop"
    loggers: list[LoggerName] = field(default_factory=lambda: ["tensorboard"])

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
            "top_k",
            "gradient_clip",
            "shuffle_tokens",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{_flag(name)} {value}: it must be more than 0")
        for name in ("alpha", "beta", "weight_decay", "seed", "gpus_per_worker"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UserError(f"{_flag(name)} {value}: it must be 0 or more")
        distils = self.teacher is not None or self.teacher_logits is not None
        if distils and self.alpha == self.beta == 0:
            raise UserError("--alpha 0 --beta 0 leaves no loss: make one of them more than 0")
        if self.top_k is not None and not distils:
            raise UserError("--top-k is of a teacher's tokens: name a --teacher")
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
        check_loggers(self.loggers)

    @property
    def sources(self) -> list[str]:
        """The sources of the training text as a list."""
        return [self.text] if isinstance(self.text, str) else list(self.text)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def default_validation_tokens(tokens: int) -> int:
    """Of a run of so many tokens, where no number is given."""
    return max(2**12, tokens // 50)


def pretrain(config: PretrainConfig, *, watcher: Watcher | None = None) -> dict[str, Any]:
    """Train, or go on with a run that was cut off; a finished one is left alone.

    Leaves `model/` (the checkpoint), `log.jsonl` (a line per step), `settings.yaml` and
    `summary.json` in the run directory, which all workers must be able to reach.

    Args:
        config: what to do.
        watcher: is told what is logged; by default the display of progress on stderr.

    Returns:
        The summary: `steps`, `tokens`, `flops`, `seconds`, `loss`, `validation_perplexity` where
        there is validation, `skipped` where updates were left out, and `settings`.

    Raises:
        UserError: bad input, a run directory of other settings, or a loss that is not finite.
    """
    # Only now: torch and Ray take seconds to import, which `--help` should not.
    from training.setup.inputs import read_inputs
    from training.setup.launch import fit
    from training.setup.resolve import demand_of, make_plan, resources, settings_of

    run = Path(config.out).absolute()
    config = _pinned(config, run)
    inputs = read_inputs(
        model=config.model,
        teacher=config.teacher,
        teacher_logits=config.teacher_logits,
        text=config.sources,
        text_weights=config.text_weights,
        shuffle_tokens=config.shuffle_tokens,
        tokens=config.tokens,
        validation_text=config.validation_text,
        validation_tokens=config.validation_tokens or default_validation_tokens(config.tokens),
        sequence_length=config.sequence_length,
    )
    workers, gpus_per_worker = resources(config)
    plan = make_plan(config, inputs, "cuda" if gpus_per_worker else "cpu")
    if plan.batch < workers:
        raise UserError(
            f"a batch of {plan.batch} sequences cannot be shared by {workers} workers: "
            f"give fewer --workers or more --batch-tokens than {plan.tokens_per_step}"
        )
    settings = settings_of(config, inputs, plan)
    claim(run, settings)
    with exclusive(run):
        if (run / SUMMARY).is_file():
            print(f"{run} is finished: nothing is left to do")
            return json.loads((run / SUMMARY).read_text())
        loggers = open_loggers(config.loggers, run, settings)
        flops = plan.steps * plan.tokens_per_step * plan.flops_per_token
        fit(
            run,
            plan,
            student=inputs.student.path.absolute(),
            teacher=None if inputs.teacher is None else inputs.teacher.path.absolute(),
            teacher_logits=None
            if config.teacher_logits is None
            else Path(config.teacher_logits).absolute(),
            text=inputs.text,
            validation=None if inputs.validation is None else inputs.validation.blocks,
            origin=_origin(inputs.student.path, settings),
            checkpoint_every=config.checkpoint_every or min(1000, max(1, plan.steps // 10)),
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            threads=config.threads,
            log_blocks=config.log_blocks,
            demand=demand_of(config, inputs, plan),
            on_nan=config.on_nan,
            watchers=[watcher or progress_display(run.name, plan.steps, flops), *loggers],
        )
        return _finish(run, settings)


def _pinned(config: PretrainConfig, run: Path) -> PretrainConfig:
    """The same, with the commits of the hub's data sets that the run was begun with."""
    text = pin_sources(config.sources, run, "text")
    if config.validation_text is None:
        return replace(config, text=text)
    (validation_text,) = pin_sources([config.validation_text], run, "validation_text")
    return replace(config, text=text, validation_text=validation_text)


def _origin(directory: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Where the checkpoint came from, with this run added to how it was trained."""
    path = directory / "subnet.json"
    origin: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    trained = origin.pop("pretraining", [])
    return origin | {"pretraining": [*trained, settings]}


def _finish(run: Path, settings: dict[str, Any]) -> dict[str, Any]:
    rows = log.rows(run)
    if not rows or not (run / RESULT).is_dir():
        raise UserError(
            f"the workers' results are not in {run}: --out must be on a file system "
            "that all nodes share"
        )
    last = rows[-1]
    names = ("steps", "tokens", "flops", "seconds", "loss", "validation_perplexity", "skipped")
    summary = {
        name: last["step" if name == "steps" else name]
        for name in names
        if name in last or name == "steps"
    }
    summary["settings"] = settings
    with atomic_file(run / SUMMARY) as temporary:
        temporary.write_text(dumps(summary, indent=2) + "\n")
    shutil.rmtree(run / CHECKPOINTS, ignore_errors=True)
    return summary
