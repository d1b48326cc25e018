"""`evo eval`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from evo.data.reading import Reading
from evo.errors import UserError
from evo.quantities import Count
from evo.storage.strict_json import dumps

OF_TEXT = ("sequence_length", "max_tokens", "stride")
OF_READING = tuple(field.name for field in fields(Reading))
OF_TASKS = (
    "include_path",
    "few_shot",
    "limit",
    "max_length",
    "apply_chat_template",
    "gen_kwargs",
    "log_samples",
)


@dataclass(frozen=True)
class EvalConfig(Reading):
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
        max_length: tokens that the model sees in a task; by default its block size.
        apply_chat_template: put the tasks' prompts in the tokenizer's chat template.
        gen_kwargs: settings of generation that replace the tasks' own, such as
            temperature=0.7,do_sample=true.
        log_samples: write every sample, with the prompt and the model's answers, as a line of JSON
            beside --out: to results.samples.jsonl for results.json.
        dtype: of the weights: float32 or bfloat16.
        micro_batch: sequences that run at once.
        out: file for the results too, as JSON; by default none is written.

    Raises:
        UserError: not one of text and tasks, or settings of the other.
    """

    model: Path
    text: str | None = None
    sequence_length: int | None = None
    max_tokens: Count | None = None
    stride: int | None = None
    tasks: list[str] = field(default_factory=list)
    include_path: Path | None = None
    few_shot: int | None = None
    limit: int | None = None
    max_length: int | None = None
    apply_chat_template: bool = False
    gen_kwargs: str | None = None
    log_samples: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    micro_batch: int = 8
    out: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.text is None) != bool(self.tasks):
            raise UserError("give one of --text SOURCE and --tasks TASK ...")
        defaults = {each.name: each.default for each in fields(self)}
        for name in (*OF_TEXT, *OF_READING) if self.tasks else OF_TASKS:
            if getattr(self, name) != defaults[name]:
                used, given = ("--text", "--tasks") if self.tasks else ("--tasks", "--text")
                raise UserError(
                    f"--{name.replace('_', '-')} is of use with {used}, not with {given}"
                )
        if self.log_samples and self.out is None:
            raise UserError("--log-samples writes beside the results: name a file with --out")


def run(config: EvalConfig) -> None:
    """Evaluate, print the result as JSON, and write it where `--out` says."""
    from evo.storage.files import atomic_file, refuse_occupied, write_whole

    samples_file = config.out.with_suffix(".samples.jsonl") if config.out else None
    if config.out is not None:
        refuse_occupied(config.out)
    if config.log_samples and samples_file is not None:
        refuse_occupied(samples_file)
    result = _result(config)
    samples = result.pop("samples", {})
    print(dumps(result))
    if config.log_samples and samples_file is not None:
        with atomic_file(samples_file) as temporary, temporary.open("w") as file:
            for task, rows in samples.items():
                file.writelines(dumps({"task": task, **row}) + "\n" for row in rows)
    if config.out is not None:
        write_whole(config.out, dumps(result, indent=2) + "\n")


def _result(config: EvalConfig) -> dict[str, Any]:
    from training.evaluation.evaluate import evaluate, evaluate_tasks
    from training.evaluation.task_settings import TaskSettings

    if config.text is not None:
        return evaluate(
            config.model,
            config.text,
            **{name: getattr(config, name) for name in OF_TEXT},
            reading=config.reading,
            micro_batch=config.micro_batch,
            dtype=config.dtype,
        )
    return evaluate_tasks(
        config.model,
        TaskSettings(config.tasks, **{name: getattr(config, name) for name in OF_TASKS}),
        micro_batch=config.micro_batch,
        dtype=config.dtype,
    )
