"""Which tasks of lm-evaluation-harness are run, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evo.errors import UserError


@dataclass(frozen=True)
class TaskSettings:
    """Tasks, and the harness's own settings for them.

    Attributes:
        tasks: names of tasks, groups or tags, or patterns of them (`mmlu_*`).
        include_path: a directory of YAML files with more tasks.
        few_shot: the number of examples in the prompt; by default each task's own.
        limit: the number of samples that are used of each task; by default all.
        max_length: the number of tokens that the model sees; by default its block size.
        apply_chat_template: whether prompts are put in the tokenizer's chat template.
        gen_kwargs: settings of generation that replace the tasks' own, as `a=1,b=2`.
        log_samples: whether the results hold every sample with the model's answers to it.

    Raises:
        UserError: a number or `gen_kwargs` is malformed, or there is no such directory.
    """

    tasks: list[str]
    include_path: Path | None = None
    few_shot: int | None = None
    limit: int | None = None
    max_length: int | None = None
    apply_chat_template: bool = False
    gen_kwargs: str | None = None
    log_samples: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit}: it must be at least 1")
        if self.few_shot is not None and self.few_shot < 0:
            raise UserError(f"--few-shot {self.few_shot}: it must be at least 0")
        if self.include_path is not None and not self.include_path.is_dir():
            raise UserError(f"--include-path {self.include_path} is no directory")
        for setting in (self.gen_kwargs or "a=1").split(","):
            name, given, _ = setting.partition("=")
            if not (name and given):
                raise UserError(f"--gen-kwargs {self.gen_kwargs}: give name=value,name=value")
