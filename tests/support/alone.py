"""Training without Ray: the workers of a run as plain processes, for tests that start many runs."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from evo.errors import UserError
from training.data.sampler import Extent, Sampler
from training.logs import log
from training.loop.parallel import Execution, Place
from training.loop.plan import Plan
from training.loop.train_state import Job
from training.losses.settings import LossSettings


def plan_of(*, steps: int = 100, batch: int = 6, length: int = 17, **changes: object) -> Plan:
    """Settings of a run of tiny networks on the CPU."""
    settings = {
        "init": "weights", "steps": steps, "batch": batch, "sequence_length": length,
        "micro_batch": 2, "learning_rate": 3e-3, "warmup_steps": 5, "weight_decay": 0.1,
        "gradient_clip": 1.0, "validate_every": 40, "seed": 0, "precision": "float32",
        "device": "cpu", "loss": LossSettings(), "flops_per_token": 1,
    }  # fmt: skip
    return Plan(**settings | changes)


def job_of(run: Path, model: Path, text: np.ndarray, **changes: object) -> Job:
    """A run that is not validated and not distilled."""
    plan = changes.get("plan") or plan_of(validate_every=0)
    assert isinstance(plan, Plan)
    given = {
        "plan": plan, "run": run, "model": model, "teacher": None, "teacher_logits": None,
        "sampler": Sampler(plan.batch, (Extent(len(text)),), (1.0,), plan.seed),
        "text": (text,), "log_blocks": False, "validation": None, "origin": {},
        "checkpoint_every": 10, "threads": 1, "execution": Execution(), "on_nan": "stop",
    }  # fmt: skip
    run.mkdir(parents=True, exist_ok=True)
    return Job(**given | changes)


def train_alone(job: Job, workers: int, *, kill_at: int | None = None) -> None:
    """Run a job's workers to the end, or until one of them is killed.

    Args:
        job: what they are given; its text is in memory.
        workers: how many.
        kill_at: once this step is in the log, the last worker is killed, and then the others.

    Raises:
        UserError: one of them did.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.loop.loop"])
    errors = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as directory:
        processes = [
            context.Process(
                target=_work,
                args=(job, Place(rank, workers, torch.device("cpu")), f"{directory}/store", errors),
            )
            for rank in range(workers)
        ]
        for process in processes:
            process.start()
        if kill_at is not None:
            while not _logged(job.run, kill_at):
                assert any(process.is_alive() for process in processes), "all ended before"
                time.sleep(0.002)
            for process in reversed(processes):
                process.kill()
        for process in processes:
            process.join()
    if not errors.empty():
        raise UserError(errors.get())
    if kill_at is None:
        assert [process.exitcode for process in processes] == [0] * workers


def _logged(run: Path, step: int) -> bool:
    rows = log.rows(run)
    return bool(rows) and rows[-1]["step"] >= step


def _work(job: Job, place: Place, store: str, errors: object) -> None:
    from training.loop.loop import train

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=place.rank, world_size=place.workers
    )
    try:
        train(job, place)
    except UserError as error:
        errors.put(str(error))
    finally:
        torch.distributed.destroy_process_group()
