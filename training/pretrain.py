"""Pretrain a checkpoint on Ray Train: the driver's side."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from evo.data.hub import pin_sources
from evo.errors import UserError
from evo.storage.files import atomic_file, exclusive
from evo.storage.strict_json import dumps
from training.config import PretrainConfig
from training.logs import log
from training.logs.loggers import open_loggers
from training.logs.progress import progress_display
from training.logs.tail import Watcher
from training.loop.plan import default_validation_tokens
from training.run_directory import CHECKPOINTS, RESULT, SUMMARY, claim
from training.setup.inputs import read_inputs
from training.setup.launch import fit
from training.setup.resolve import demand_of, make_plan, settings_of
from training.setup.worker_resources import workers_and_gpus


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
    workers, gpus_per_worker = workers_and_gpus(config.workers, config.gpus_per_worker)
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
