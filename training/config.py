"""The settings of training, of `evo pretrain` and of `evo cache-logits`, as the user gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evo.data.reading import Reading
from evo.errors import UserError
from evo.quantities import Count
from training.logs.loggers import LoggerName, check_loggers
from training.losses.settings import DivergenceKind, Tail

POSITIVE = (
    "tokens", "validation_tokens", "batch_tokens", "learning_rate", "validate_every",
    "checkpoint_every", "micro_batch", "temperature", "top_k", "gradient_clip", "shuffle_tokens",
)  # fmt: skip
WARMUP = 0.02
"""The default share of the steps in which the learning rate rises."""

NOT_NEGATIVE = ("alpha", "beta", "weight_decay", "seed", "gpus_per_worker")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Reading):
    """How a network is trained, whichever it is.

    Attributes:
        text: sources of the training text; one that is too short is repeated in epochs, each in
            an order of its own. Data sets of the hub, and files of more than 1 GiB, are read as
            streams; a directory of `evo prepare` may be of any size.
        tokens: train on at least this number of tokens; the last batch is whole.
        init: start from the checkpoint's weights, or from random ones in its shape.
        text_weights: how much each source of a mixed text counts; by default by its tokens.
        shuffle_tokens: a stream is shuffled in windows of this number of tokens, three of which
            each node of the cluster holds in memory.
        log_blocks: whether to log which blocks each step had, and not only their hash.
        teacher: checkpoint directory to distil from; none: cross-entropy alone.
        teacher_logits: a directory of `evo cache-logits` to distil from, instead of running the
            teacher; with --teacher beside it, it must be that teacher's.
        alpha: weight of the cross-entropy, where there is a teacher.
        beta: weight of the divergence from the teacher.
        temperature: temperature of both networks' distributions in the divergence.
        divergence: divergence of the student q from the teacher p: KL(p || q), KL(q || p), the
            mean of both, or Jensen-Shannon's.
        top_k: the divergence is over this number of the teacher's likeliest tokens at each
            position; by default over the full vocabulary, or all that --teacher-logits keep.
        tail: with --top-k, whether all other tokens count as one (bucket), or are left out and both
            distributions are renormalised.
        validation_text: source of the validation text; none: no validation.
        validation_tokens: use this number of its tokens at most, in sequences evenly spaced in the
            text; by default a fiftieth of `tokens`.
        batch_tokens: tokens of a step over all workers; by default about 4 sqrt(`tokens`), and a
            hundredth of `tokens` at most.
        learning_rate: the peak learning rate; by default from the number of parameters.
        validate_every: steps between validations; by default a twentieth of the steps. There is
            one before the first step and one after the last in any case.
        checkpoint_every: steps between checkpoints; by default a tenth of the steps, 1000 at most.
        sequence_length: tokens of a sequence; by default that of --teacher-logits, else the
            model's block size, 2048 at most.
        seed: seeds the order of the text, and random weights.
        gpus_per_worker: share of a GPU for each worker, or 0 for the CPU; by default 1 where there
            are GPUs.
        micro_batch: sequences that run through the model at once; by default as many as fit in
            half a GiB of activations on the CPU, and 8 GiB on a GPU.
        precision: dtype of matrix products; by default bfloat16 on GPUs, float32 on the CPU.
        warmup: share of the steps in which the learning rate rises; from 1 on, their number; by
            default 0.02, and for a run that is there as it was begun with.
        decay: share of the steps in which the learning rate falls, of a wsd schedule.
        weight_decay: AdamW's, on matrices only.
        gradient_clip: the largest norm of the gradient.
        activation_checkpointing: keep blocks' inputs alone and run blocks again in the backward
            pass: a third more FLOPs than are counted, for a fraction of the activations' memory.
        compile: run blocks through torch.compile.
        on_nan: whether a step whose loss or gradient is not finite ends the run, or its update is
            left out and counted; ten such steps in a row end the run.
    """

    text: list[str] | str
    tokens: Count
    init: Literal["weights", "random"] = "weights"
    text_weights: list[float] | None = None
    shuffle_tokens: Count = 2**23
    log_blocks: bool = False
    teacher: Path | None = None
    teacher_logits: Path | None = None
    alpha: float = 0.2
    beta: float = 0.8
    temperature: float = 0.9
    divergence: DivergenceKind = "forward-kl"
    top_k: int | None = None
    tail: Tail = "bucket"
    validation_text: str | None = None
    validation_tokens: Count | None = None
    batch_tokens: Count | None = None
    learning_rate: float | None = None
    validate_every: int | None = None
    checkpoint_every: int | None = None
    sequence_length: int | None = None
    seed: int = 0
    gpus_per_worker: float | None = None
    micro_batch: int | None = None
    precision: Literal["float32", "bfloat16"] | None = None
    warmup: float | None = None
    decay: float = 0.2
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    activation_checkpointing: bool = False
    compile: bool = False
    on_nan: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, POSITIVE, lambda value: value > 0, "more than 0")
        check(self, NOT_NEGATIVE, lambda value: value >= 0, "0 or more")
        distils = self.teacher is not None or self.teacher_logits is not None
        if distils and self.alpha == self.beta == 0:
            raise UserError("--alpha 0 --beta 0 leaves no loss: make one of them more than 0")
        if self.top_k is not None and not distils:
            raise UserError("--top-k is of a teacher's tokens: name a --teacher")
        warmup = WARMUP if self.warmup is None else self.warmup
        if not (0 <= warmup < 1 or warmup == int(warmup) >= 1):
            raise UserError(
                f"--warmup {warmup}: it is a share of the steps, 0 to below 1, or their number"
            )
        left = 1 - warmup if warmup < 1 else 1.0
        if not 0 < self.decay <= left:
            raise UserError(
                f"--decay {self.decay}: it is a share of the steps, above 0 and at most the "
                f"{left:g} that --warmup leaves"
            )
        if self.sequence_length is not None and self.sequence_length < 2:
            raise UserError(
                f"--sequence-length {self.sequence_length} leaves nothing to predict: "
                "give at least 2"
            )
        _check_gpus(self.gpus_per_worker)

    @property
    def sources(self) -> list[str]:
        """The sources of the training text as a list."""
        return [self.text] if isinstance(self.text, str) else list(self.text)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """Settings of a pretraining run.

    Attributes:
        model: checkpoint directory of the network to train.
        out: run directory. Started again with the same settings, a run goes on where it was.
        schedule: how the learning rate falls after the warm-up: as a cosine; or not before the last
            --decay of the steps, and then linearly (wsd: warm-up, stable, decay). Both end at a
            tenth of the peak. A wsd run keeps the checkpoint before the decay, from which the same
            command with more --tokens goes on.
        workers: number of workers that train in parallel, always on the same batches; by default
            one per GPU, or one.
        threads: threads of each worker on the CPU; by default the cores divided by the workers.
        parallel: every worker holds the whole network in training (ddp), or its part of weights,
            gradients and optimiser states (fsdp); auto: fsdp where the whole would fill more than
            80% of a GPU's memory, or of a worker's part of the memory that Ray counts on CPUs.
        shard_teacher: whether each worker holds only its part of the teacher; by default where
            it does not fit beside the student.
        loggers: copies of log.jsonl that are kept beside it: tensorboard, wandb, csv; any number.
        keep_checkpoints: number of the last checkpoints that are kept; more than one is kept after
            the run's end, too.
        keep_every: keep the checkpoint of every so many steps for good; by default none.
        resume_from: a kept checkpoint (RUN/checkpoints/step-N of another run) from which this run
            goes on, with its weights, its optimiser's state and its step, under settings that may
            be others.
        grace: at a SIGTERM, seconds in which a checkpoint may be written first.
    """

    model: Path
    out: Path
    schedule: Literal["cosine", "wsd"] = "cosine"
    workers: int | None = None
    threads: int | None = None
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    shard_teacher: bool | None = None
    loggers: list[LoggerName] = field(default_factory=lambda: ["tensorboard"])
    keep_checkpoints: int = 1
    keep_every: int | None = None
    resume_from: Path | None = None
    grace: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("workers", "threads", "keep_checkpoints", "keep_every")
        check(self, names, lambda value: value > 0, "more than 0")
        check(self, ("grace",), lambda value: 0 <= value < 10**6, "0 or more seconds")
        check_loggers(self.loggers)


@dataclass(frozen=True)
class CacheLogitsConfig(Reading):
    """Keep a teacher's likeliest tokens at every position of a text, for `evo pretrain
    --teacher-logits`.

    Give the same --text, --tokens and --sequence-length as to the runs that will read them; each
    may weigh the sources in its own way. Started again, it goes on where it was, and makes anew
    what is damaged.

    Attributes:
        teacher: checkpoint directory.
        text: sources of the text; those that would be read as streams have to be prepared first.
        tokens: number of tokens of the runs.
        out: directory to make.
        top_k: number of tokens to keep at each position.
        sequence_length: tokens of a sequence; by default the teacher's block size, 2048 at most.
        vocabulary: the distributions are over token ids below this; by default the tokenizer's
            size. Without a tokenizer, give the smaller of the teacher's and the student's.
        dtype: dtype of the stored log-probabilities.
        precision: dtype of the teacher's matrix products, which should be that of the runs; by
            default bfloat16 on GPUs, float32 on the CPU.
        workers: number of workers that run the teacher in parallel; by default one per GPU, or one.
        gpus_per_worker: share of a GPU for each worker, or 0 for the CPU; by default 1 where there
            are GPUs.
        micro_batch: sequences that run through the teacher at once.
        threads: threads of each worker on the CPU; by default the cores divided by the workers.
    """

    teacher: Path
    text: list[str] | str
    tokens: Count
    out: Path
    top_k: int = 256
    sequence_length: int | None = None
    vocabulary: int | None = None
    dtype: Literal["float16", "float32"] = "float32"
    precision: Literal["float32", "bfloat16"] | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    micro_batch: int = 8
    threads: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("tokens", "top_k", "vocabulary", "workers", "micro_batch", "threads")
        check(self, names, lambda value: value > 0, "more than 0")
        _check_gpus(self.gpus_per_worker)


def check(
    config: object, names: tuple[str, ...], holds: Callable[[float], bool], condition: str
) -> None:
    """Refuse a value for which a condition does not hold; None stands for a default."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not holds(value):
            raise UserError(f"--{name.replace('_', '-')} {value}: it must be {condition}")


def _check_gpus(share: float | None) -> None:
    if share is not None and not 0 <= share <= 1:
        raise UserError(f"--gpus-per-worker {share}: a worker uses one GPU or a share of one")
