"""Run the loop on Ray Train, and tell what it logs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import ray
import ray.train
import ray.train.torch
from numpy.typing import NDArray
from ray.exceptions import RayActorError
from ray.train import TrainingFailedError
from ray.train.torch import TorchConfig
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from evo.errors import UserError, first_line
from evo.ray_connection import connect
from evo.storage.run_directory import FILE as SETTINGS
from training.data.sampler import Sampler
from training.data.stream import StreamedBlocks, StreamedText
from training.data.training_text import TrainingText
from training.logs import log
from training.logs.tail import Watcher, follow
from training.loop.loop import train
from training.loop.parallel import Execution, Place
from training.loop.plan import Plan
from training.loop.train_state import Job
from training.run_directory import CHECKPOINTS
from training.setup.memory import SHARE, Demand
from training.setup.ray_internals import had_no_room
from training.setup.worker_resources import Crew, hire, living_nodes, say_waiting

MOST_FAILURES = 4
"""So many failures without a further step between them end a run."""

KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**34),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}
"""For glibc's allocator on the CPU: large tensors come from memory that the process keeps. Else
each step gives it back, and the kernel clears it page by page for the next."""

NOTICE_SECONDS = 5.0
"""In which a cluster notices that a node has left it."""


def fit(
    run: Path,
    plan: Plan,
    *,
    student: Path,
    teacher: Path | None,
    teacher_logits: Path | None,
    text: TrainingText,
    validation: NDArray[Any] | None,
    origin: dict[str, Any],
    checkpoint_every: int,
    workers: int,
    gpus_per_worker: float,
    threads: int | None,
    log_blocks: bool,
    demand: Demand,
    on_nan: Literal["stop", "skip"],
    watchers: Sequence[Watcher],
) -> None:
    """Train to the end of a plan, from the last checkpoint in the run directory if there is one.

    Args:
        run: the run directory, absolute.
        plan: the settings.
        student: checkpoint directory of what is trained.
        teacher: the one of what it is distilled from.
        teacher_logits: of `evo cache-logits`, instead of the teacher.
        text: to train on.
        validation: those of the validation text.
        origin: for the result's `subnet.json`.
        checkpoint_every: steps from one checkpoint to the next.
        workers: how many train in parallel.
        gpus_per_worker: share of a GPU, 0 for the CPU.
        threads: of a worker on the CPU; by default as many as there are cores for each.
        log_blocks: whether each row of the log lists the step's blocks.
        demand: what it asks of the workers' memory.
        on_nan: of a step whose loss or gradient is not finite.
        watchers: are told what is logged, and closed at the end.

    Raises:
        UserError: the loss is not finite, the memory or the disk is full.
    """
    connect()
    crew = hire(workers, gpus_per_worker, threads, living_nodes())
    job = Job(
        plan=plan,
        run=run,
        model=student,
        teacher=teacher,
        teacher_logits=teacher_logits,
        sampler=Sampler(
            plan.batch,
            tuple(source.extent for source in text.sources),
            text.shares,
            plan.seed,
        ),
        text=tuple(
            source.blocks if isinstance(source.blocks, StreamedText) else ray.put(source.blocks)
            for source in text.sources
        ),
        validation=None if validation is None else ray.put(validation),
        origin=origin,
        checkpoint_every=checkpoint_every,
        threads=threads or crew.threads,
        log_blocks=log_blocks,
        execution=demand.executions[0],
        on_nan=on_nan,
    )
    finished = threading.Event()
    following = threading.Thread(target=follow, args=(run, watchers, finished), daemon=True)
    following.start()
    try:
        _fit_again_while_workers_die(job, crew, demand)
    finally:
        finished.set()
        following.join()


def _fit_again_while_workers_die(job: Job, wanted: Crew, demand: Demand) -> None:
    """Go on from the last checkpoint after a worker's death, unless it never gets any further.

    On as many workers as the cluster then has room for: a node may have left it. While there is
    room for none, or others hold it, wait. Ray Train's own limit counts all failures of a run,
    however long it is, and would try again what the user must put right.

    Raises:
        UserError: what a worker raised as one; or workers die again and again.
    """
    crew, furthest, failures, waits = wanted, -1, 0, False
    while True:
        execution = _choose(demand, crew)
        try:
            _trainer(replace(job, execution=execution, text=_with_readers(job)), crew).fit()
            return
        except TrainingFailedError as error:
            if message := _user_error(error):
                raise UserError(message) from error
            if not had_no_room(error):
                step = max((row["step"] for row in log.rows(job.run)), default=-1)
                failures = 1 if step > furthest else failures + 1
                furthest, waits = max(furthest, step), False
                if failures == MOST_FAILURES:
                    raise _given_up(error) from error
            elif not waits:
                waits = say_waiting(crew)
        time.sleep(NOTICE_SECONDS)
        while (room := wanted.room()) == 0:
            waits = waits or say_waiting(wanted)
            time.sleep(NOTICE_SECONDS)
        # At first, nodes may still have to come; later, the run goes on with what is left of them.
        count = min(wanted.count, room) if failures else wanted.count
        if count != crew.count:
            print(f"{job.run.name}: going on with {count} of {wanted.count} workers", flush=True)
        crew = replace(wanted, count=count)


def _given_up(error: TrainingFailedError) -> Exception:
    """What is told of workers that die again and again; an error of ours keeps its traceback."""
    found = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    dead = [one for one in found.values() if isinstance(one, RayActorError)]
    if not dead:
        return error
    return UserError(
        f"a worker died {MOST_FAILURES} times without a further step, at last of: "
        f"{first_line(dead[0])}"
    )


def _with_readers(job: Job) -> tuple[Any, ...]:
    """The job's text, each stream of it with a new reader."""
    return tuple(
        StreamedBlocks(one, job.run / f"stream-{number}.jsonl", job.plan.batch)
        if isinstance(one, StreamedText)
        else one
        for number, one in enumerate(job.text)
    )


def _choose(demand: Demand, crew: Crew) -> Execution:
    """How the networks are spread over so many workers; said where it is not the cheapest way."""
    workers, cheapest = crew.count, demand.executions[0]
    if workers == 1 or len(demand.executions) == 1:
        return cheapest
    memory = crew.memory()
    execution = demand.choose(workers, memory)
    if execution != cheapest:
        parts = ["the student"] * (execution.parallel == "fsdp")
        parts += ["the teacher"] * execution.shard_teacher
        print(
            f"each of {workers} workers holds a part of {' and '.join(parts)}: otherwise it would "
            f"need {demand.needed(cheapest, workers) / 2**30:.1f} GiB, more than {SHARE:.0%} of "
            f"{memory / 2**30:.1f} GiB",
            flush=True,
        )
    return execution


def _trainer(job: Job, crew: Crew) -> TorchTrainer:
    return TorchTrainer(
        # Not as a `train_loop_config`: Ray's controller would read that, and import all that we do.
        lambda: _work(job),
        # NCCL refuses two workers on one GPU.
        torch_config=TorchConfig(backend="nccl" if crew.gpus == 1 else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=crew.count,
            use_gpu=crew.gpus > 0,
            resources_per_worker=crew.resources,
        ),
        run_config=RunConfig(
            name=job.run.name,
            storage_path=str(job.run / CHECKPOINTS / "ray"),
            worker_runtime_env={} if crew.gpus else {"env_vars": KEEP_MEMORY},
            failure_config=FailureConfig(controller_failure_limit=0),
        ),
    )


def _work(job: Job) -> None:
    """What Ray Train runs on every worker.

    Raises:
        UserError: this node does not see the run directory; else as `train`.
    """
    if not (job.run / SETTINGS).is_file():
        raise UserError(
            f"{job.run} is not there on {socket.gethostname()}: --out must be on a file system "
            "that all nodes share"
        )
    text = tuple(ray.get(one) if isinstance(one, ray.ObjectRef) else one for one in job.text)
    validation = None if job.validation is None else ray.get(job.validation)
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    train(
        replace(job, text=text, validation=validation),
        Place(context.get_world_rank(), context.get_world_size(), device),
    )


def _user_error(error: TrainingFailedError) -> str | None:
    """The message of a `UserError` in a worker; Ray Train hands over its traceback as text."""
    kind = f"{UserError.__module__}.{UserError.__qualname__}: "
    for line in map(str.strip, str(error).splitlines()):
        if line.startswith(kind):
            return line.removeprefix(kind)
    return None
