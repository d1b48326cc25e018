"""Tasks of lm-evaluation-harness on a checkpoint of either kind."""

from __future__ import annotations

import json
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable

from evo.errors import UserError, first_line
from evo.model.checkpoint import Checkpoint
from training.evaluation.harness_model import HarnessModel
from training.evaluation.task_settings import TaskSettings


def run_tasks(
    stored: Checkpoint,
    settings: TaskSettings,
    *,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 8,
    device: str = "cpu",
) -> dict[str, Any]:
    """Run tasks of the harness on a checkpoint.

    Returns:
        The harness's `results` (metrics by task), `versions` of the tasks, `n-shot` and
        `n-samples`, by task; with `log_samples` also `samples`, a list of them by task.

    Raises:
        UserError: a task is unknown, cannot be loaded, fails, or asks for what cannot be done.
    """
    manager = _manager(settings)
    found = _loaded(manager, settings.tasks)
    model = HarnessModel(
        stored, dtype=dtype, batch_size=batch_size, device=device, max_length=settings.max_length
    )
    if settings.apply_chat_template and not model.tokenizer.chat_template:
        raise UserError(f"--apply-chat-template: {stored.path} has no chat template")
    try:
        results = simple_evaluate(
            model=model,
            tasks=found,
            num_fewshot=settings.few_shot,
            limit=settings.limit,
            task_manager=manager,
            apply_chat_template=settings.apply_chat_template,
            gen_kwargs=settings.gen_kwargs,
            log_samples=settings.log_samples,
        )
    except UserError:
        raise
    except Exception as error:  # templates, filters and metrics of tasks are others' code too
        kind = type(error).__name__
        raise UserError(f"--tasks: a task fails: {kind}: {first_line(error)}") from error
    kept = ["results", "versions", "n-shot", "n-samples"] + ["samples"] * settings.log_samples
    # Samples hold what data sets hold: dates, sets, images.
    return json.loads(
        json.dumps({name: results[name] for name in kept}, default=handle_non_serializable)
    )


def _manager(settings: TaskSettings) -> TaskManager:
    """The index of the tasks, without the harness's own where the user's suffice.

    The harness has 14,000 files of tasks, and takes some 15 seconds to read them. Only groups, tags
    and patterns of the user's can lead to them.
    """
    if settings.include_path is None:
        return TaskManager()
    path = str(settings.include_path)
    own = TaskManager(include_path=path, include_defaults=False)
    if set(settings.tasks) <= set(own.all_subtasks):
        return own
    return TaskManager(include_path=path)


def _loaded(manager: TaskManager, tasks: list[str]) -> list[Any]:
    """Load the harness's tasks and groups of these names, with their samples.

    Raises:
        UserError: a name is unknown, two of them hold the same task, or a task cannot be loaded,
            runs the model's code, or is not of text alone.
    """
    found: list[Any] = []
    for pattern in tasks:
        names = manager.match_tasks([pattern])
        if not names:
            raise UserError(
                f"--tasks {pattern}: lm-evaluation-harness knows no such task; `lm_eval ls tasks` "
                "lists them, --include-path DIR adds those of valid YAML files"
            )
        for name in names:
            try:
                loaded = manager.load([name])
            except Exception as error:  # tasks are others' files, code and downloads: it may be any
                kind = type(error).__name__
                raise UserError(
                    f"--tasks {name} cannot be loaded: {kind}: {first_line(error)}"
                ) from error
            whole = loaded["groups"].get(name)
            found += list(loaded["tasks"].values()) if whole is None else [whole]
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
