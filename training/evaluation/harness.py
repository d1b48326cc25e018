"""Tasks of lm-evaluation-harness on a checkpoint, of either kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from evo.errors import UserError, first_line
from evo.model.checkpoint import Checkpoint
from training.evaluation.checkpoint_lm import CheckpointLM


def run_tasks(
    stored: Checkpoint,
    tasks: list[str],
    *,
    include_path: Path | None = None,
    few_shot: int | None = None,
    limit: int | None = None,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 8,
    device: str = "cpu",
) -> dict[str, Any]:
    """Tasks of the harness on a checkpoint.

    Args:
        stored: the checkpoint.
        tasks: names of tasks, groups or tags, or patterns of them (`mmlu_*`).
        include_path: directory of YAML files with more tasks.
        few_shot: examples in the prompt; by default as the task says.
        limit: use so many samples of each task; by default all.
        dtype: of the weights.
        batch_size: sequences that run at once.
        device: torch's name of it.

    Returns:
        The harness's `results` (metrics by task), `versions` of the tasks, `n-shot` and
        `n-samples`, by task.

    Raises:
        UserError: an unknown task, or one that cannot be loaded, fails, or asks for what cannot be
            done.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: it must be at least 1")
    if few_shot is not None and few_shot < 0:
        raise UserError(f"--few-shot {few_shot}: it must be at least 0")
    if include_path is not None and not include_path.is_dir():
        raise UserError(f"--include-path {include_path} is no directory")
    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    found = _loaded(manager, tasks)
    model = CheckpointLM(stored, dtype=dtype, batch_size=batch_size, device=device)
    try:
        results = simple_evaluate(
            model=model,
            tasks=found,
            num_fewshot=few_shot,
            limit=limit,
            task_manager=manager,
            log_samples=False,
        )
    except UserError:
        raise
    except Exception as error:  # templates, filters and metrics of tasks are others' code too
        kind = type(error).__name__
        raise UserError(f"--tasks: a task fails: {kind}: {first_line(error)}") from error
    return {name: results[name] for name in ("results", "versions", "n-shot", "n-samples")}


def _loaded(manager: TaskManager, tasks: list[str]) -> list[Any]:
    """The harness's tasks and groups of these names, with their samples."""
    found: list[Any] = []
    for wanted in tasks:
        names = manager.match_tasks([wanted])
        if not names:
            raise UserError(
                f"--tasks {wanted}: lm-evaluation-harness knows no such task; `lm_eval ls tasks` "
                "lists them, --include-path DIR adds those of valid YAML files"
            )
        for name in names:
            try:
                one = manager.load([name])
            except Exception as error:  # tasks are others' files, code and downloads: it may be any
                kind = type(error).__name__
                raise UserError(
                    f"--tasks {name} cannot be loaded: {kind}: {first_line(error)}"
                ) from error
            whole = one["groups"].get(name)
            found += list(one["tasks"].values()) if whole is None else [whole]
    try:
        every = manager.load(found)["tasks"]
    except ValueError as error:  # a task of its own and in a group, or in two groups
        raise UserError(f"--tasks: {first_line(error)}") from error
    for name, task in every.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise UserError(f"--tasks {name}: it runs code that the model writes; evo does not")
        if getattr(task, "MULTIMODAL", False):
            raise UserError(f"--tasks {name}: it is not of text alone")
    return found
