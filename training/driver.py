"""Run the loop on Ray Train, and show how far it is."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from numpy.typing import NDArray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from evo.cluster import connect
from evo.errors import UserError
from training.loop import Job, train
from training.plan import Plan
from training.progress import show_progress

MOST_FAILURES = 8
"""How often a run whose worker died goes on from its last checkpoint by itself."""


def fit(
    run: Path,
    plan: Plan,
    *,
    name: str,
    student: Path,
    teacher: Path | None,
    text: NDArray[Any],
    validation: NDArray[Any] | None,
    origin: dict[str, Any],
    checkpoint_every: int,
    workers: int,
    gpus_per_worker: float,
    threads: int | None,
) -> None:
    """Train to the end of a plan, from the last checkpoint in the run directory if there is one.

    Args:
        run: the run directory, absolute.
        plan: the settings.
        name: of the run at Ray Train, which goes on with the checkpoints of the same name.
        student: checkpoint directory of what is trained.
        teacher: the one of what it is distilled from.
        text: token blocks, shape [N, T].
        validation: those of the validation text.
        origin: for the result's `subnet.json`.
        checkpoint_every: steps from one checkpoint to the next.
        workers: how many train in parallel.
        gpus_per_worker: share of a GPU, 0 for the CPU.
        threads: of a worker on the CPU; by default the cores divided by the workers.

    Raises:
        UserError: the loss is not finite, or the memory is not enough.
    """
    connect()
    cores = ray.cluster_resources().get("CPU", 1.0)
    job = Job(
        plan=plan,
        run=run,
        model=student,
        teacher=teacher,
        text=ray.put(text),
        validation=None if validation is None else ray.put(validation),
        origin=origin,
        checkpoint_every=checkpoint_every,
        threads=threads or max(1, len(os.sched_getaffinity(0)) // workers),
    )
    resources = {"CPU": min(1.0, cores / workers), "GPU": gpus_per_worker}
    trainer = TorchTrainer(
        lambda config: train(config["job"]),  # type: ignore[arg-type]  # may return a value
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus_per_worker > 0,
            resources_per_worker={kind: amount for kind, amount in resources.items() if amount},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(run / "checkpoints"),
            failure_config=FailureConfig(max_failures=MOST_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    finished = threading.Event()
    progress = threading.Thread(target=show_progress, args=(run, plan, finished), daemon=True)
    progress.start()
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        causes = getattr(error, "worker_failures", {}).values()
        if any(isinstance(cause, torch.OutOfMemoryError) for cause in causes):
            raise UserError(
                f"micro-batches of {plan.micro_batch} sequences do not fit in memory: "
                "give a smaller --micro-batch"
            ) from error
        raise
    finally:
        finished.set()
        progress.join()
    if message := getattr(result, "return_value", None):
        raise UserError(message)
