"""`evo eval`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evo.errors import UserError
from evo.storage.strict_json import dumps


@dataclass(frozen=True)
class EvalConfig:
    """Perplexity of a checkpoint on a text, or its score on tasks of lm-evaluation-harness.

    The last line of output is JSON: nll, perplexity, tokens; or results, versions, n-shot and
    n-samples, each by task. A number that is not finite is null.

    Attributes:
        model: checkpoint directory: a teacher, a winner, or a pretrained one.
        text: source of the text, as in `evo search`.
        sequence_length: tokens of a sequence; by default the model's block size, at most 2048.
        max_tokens: use so many tokens of the text at most, evenly spaced; by default all.
        stride: sequences overlap and score so many targets each, so that every target has a
            context of at least the sequence length less this; by default they lie side by side.
        tasks: tasks of lm-evaluation-harness instead of a text; also groups and tags.
        include_path: directory of YAML files with more tasks.
        few_shot: examples in a task's prompt; by default as the task says.
        limit: use so many samples of each task; by default all.
        dtype: of the weights: float32 or bfloat16.
        micro_batch: sequences that run at once.
        out: file for the results too, as JSON; by default none is written.

    Raises:
        UserError: not one of text and tasks, or settings of the other.
    """

    model: Path
    text: str | None = None
    sequence_length: int | None = None
    max_tokens: int | None = None
    stride: int | None = None
    tasks: list[str] = field(default_factory=list)
    include_path: Path | None = None
    few_shot: int | None = None
    limit: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    micro_batch: int = 8
    out: Path | None = None

    def __post_init__(self) -> None:
        if (self.text is None) != bool(self.tasks):
            raise UserError("give one of --text SOURCE and --tasks TASK ...")
        others = ("include_path", "few_shot", "limit")
        if self.tasks:
            others = ("sequence_length", "max_tokens", "stride")
        for name in others:
            if getattr(self, name) is not None:
                used, given = ("--text", "--tasks") if self.tasks else ("--tasks", "--text")
                raise UserError(
                    f"--{name.replace('_', '-')} is of use with {used}, not with {given}"
                )


def run(config: EvalConfig) -> None:
    """Evaluate, print the result as JSON, and write it where `--out` says."""
    from evo.storage.files import atomic_file, refuse_occupied
    from training.evaluation.evaluate import evaluate, evaluate_tasks

    if config.out is not None:
        refuse_occupied(config.out)
    if config.text is not None:
        result: dict[str, Any] = evaluate(
            config.model,
            config.text,
            sequence_length=config.sequence_length,
            max_tokens=config.max_tokens,
            stride=config.stride,
            micro_batch=config.micro_batch,
            dtype=config.dtype,
        )
    else:
        result = evaluate_tasks(
            config.model,
            config.tasks,
            include_path=config.include_path,
            few_shot=config.few_shot,
            limit=config.limit,
            micro_batch=config.micro_batch,
            dtype=config.dtype,
        )
    print(dumps(result))
    if config.out is not None:
        with atomic_file(config.out) as temporary:
            temporary.write_text(dumps(result, indent=2) + "\n")
