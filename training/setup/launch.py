"""Run the training loop on Ray Train."""

from __future__ import annotations

import math
import socket
import time
from dataclasses import replace
from typing import Any, NoReturn

import ray
import ray.train
import ray.train.torch
from ray.train import TrainingFailedError
from ray.train.torch import TorchConfig
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer
from typing_extensions import TypedDict

from evo.errors import UserError, first_line
from evo.ray_connection import connect
from evo.storage.files import write_whole
from evo.storage.names import ascii_name
from evo.storage.records import Count, read_json_if_there
from evo.storage.refusals import is_full, refusal
from evo.storage.run_directory import FILE as SETTINGS
from evo.storage.strict_json import dumps
from training.data.stream import StreamedBlocks, StreamedText
from training.logs import log
from training.loop.loop import train
from training.loop.parallel import Execution, WorkerProcess
from training.loop.train_state import WorkerJob
from training.run_directory import CHECKPOINTS
from training.setup.failures import first_failure, may_pass
from training.setup.inputs import Inputs
from training.setup.memory import SHARE, MemoryDemand
from training.setup.ray_internals import had_no_room, is_death
from training.setup.training_run import TrainingRun
from training.setup.worker_resources import (
    WorkerResources,
    allocate_workers,
    living_nodes,
    say_waiting,
)

MOST_FAILURES = 4
"""This number of failures without a further step between them ends a run."""

KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**34),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}
"""Environment in which glibc's allocator keeps the memory of large tensors on the CPU. Otherwise
each step gives it back, and the kernel clears it page by page for the next step."""

STOPPED = "stopped-at.json"
"""In the directory of a run that was stopped at a step: the step, and its NLL."""


class Stopped(TypedDict):
    """What that file holds."""

    step: Count
    nll: float | None


NOTICE_SECONDS = 5.0
"""A cluster notices within this time that a node has left it."""


def launch_on_ray_train(run: TrainingRun) -> None:
    """Train to the end of a run, from the last checkpoint in its directory if there is one.

    Raises:
        Diverged: the loss is not finite.
        UserError: the memory or the disk is full.
    """
    _launch(run, None)


def train_up_to(step: int, run: TrainingRun) -> float | None:
    """Train up to a step of a run, and stop there with a checkpoint.

    Returns:
        The NLL of the validation text, in nats summed over targets; None where it is not finite.

    Raises:
        Diverged: the loss is not finite.
        UserError: the memory or the disk is full; the run is beyond that step.
    """
    _launch(run, step)
    path = run.directory / STOPPED
    stopped = read_json_if_there(path, Stopped)
    if stopped is None or stopped["step"] != step:
        raise UserError(
            f"the workers' results are not in {run.directory}: --out must be on a file system "
            "that all nodes share"
        )
    return stopped["nll"]


def _launch(run: TrainingRun, stop_after: int | None) -> None:
    connect()
    workers = allocate_workers(run.workers, run.gpus_per_worker, run.config.threads, living_nodes())
    text, validation = shared_text(run.inputs)
    job = run.job(text=text, validation=validation, threads=run.config.threads or workers.threads)
    _fit_again_while_workers_die(replace(job, stop_after=stop_after), workers, run.demand)


def shared_text(inputs: Inputs) -> tuple[tuple[Any, ...], Any]:
    """What workers are given of the text and of the validation text: references, and streams."""
    text = tuple(
        source.blocks if isinstance(source.blocks, StreamedText) else ray.put(source.blocks)
        for source in inputs.text.sources
    )
    return text, None if inputs.validation is None else ray.put(inputs.validation.blocks)


def _fit_again_while_workers_die(
    job: WorkerJob, requested: WorkerResources, demand: MemoryDemand
) -> None:
    """Go on from the last checkpoint after a worker's death, unless the run gets no further.

    The run goes on with as many workers as the cluster then has room for, because a node may have
    left it. While there is room for none, or others hold it, this waits. Ray Train's own limit
    counts all failures of a run, however long it is, and would try again what the user must put
    right.

    Raises:
        UserError: a worker raised one, or workers die again and again.
        TrainingFailedError: a worker raised an exception that it would raise again.
    """
    workers, furthest, failures, waits = requested, -1, 0, False
    while True:
        execution = _execution(demand, workers)
        try:
            _trainer(replace(job, execution=execution, text=open_streams(job)), workers).fit()
            return
        except TrainingFailedError as error:
            if user_error := first_failure(error, lambda each: isinstance(each, UserError)):
                raise type(user_error)(str(user_error)) from error
            if is_full(error):  # Ray Train's own files lie in the run directory, too
                raise UserError(
                    f"cannot write {job.directory}: {refusal(error, job.directory)}"
                ) from error
            if not may_pass(error, workers.count):
                raise
            if not had_no_room(error):
                step = log.last_step(job.directory)
                failures = 1 if step > furthest else failures + 1
                furthest, waits = max(furthest, step), False
                if failures == MOST_FAILURES:
                    _give_up(error)
            elif not waits:
                waits = say_waiting(workers)
        time.sleep(NOTICE_SECONDS)
        while (room := requested.room()) == 0:
            waits = waits or say_waiting(requested)
            time.sleep(NOTICE_SECONDS)
        # At first, nodes may still have to come; later, the run goes on with what is left of them.
        count = min(requested.count, room) if failures else requested.count
        if count != workers.count:
            print(
                f"{job.directory.name}: going on with {count} of {requested.count} workers",
                flush=True,
            )
        workers = replace(requested, count=count)


def _give_up(error: TrainingFailedError) -> NoReturn:
    """Raise the error of workers that die again and again; a defect of ours keeps its traceback."""
    dead = first_failure(error, is_death)
    if dead is None:
        raise error
    raise UserError(
        f"a worker died {MOST_FAILURES} times without a further step, at last of: "
        f"{first_line(dead)}"
    ) from error


def open_streams(job: WorkerJob) -> tuple[Any, ...]:
    """The job's text with a new reader for each source that is a stream."""
    return tuple(
        StreamedBlocks(text, job.directory / f"stream-{number}.jsonl", job.settings.batch)
        if isinstance(text, StreamedText)
        else text
        for number, text in enumerate(job.text)
    )


def _execution(demand: MemoryDemand, workers: WorkerResources) -> Execution:
    """How the networks are spread over the workers; printed where it is not the cheapest way."""
    cheapest = demand.executions[0]
    if workers.count == 1 or len(demand.executions) == 1:
        return cheapest
    memory = workers.memory()
    execution = demand.choose(workers.count, memory)
    if execution != cheapest:
        parts = ["the student"] * (execution.parallel == "fsdp")
        parts += ["the teacher"] * execution.shard_teacher
        print(
            f"each of {workers.count} workers holds a part of {' and '.join(parts)}: otherwise it "
            f"would need {demand.needed(cheapest, workers.count) / 2**30:.1f} GiB, more than "
            f"{SHARE:.0%} of {memory / 2**30:.1f} GiB",
            flush=True,
        )
    return execution


def _trainer(job: WorkerJob, workers: WorkerResources) -> TorchTrainer:
    return TorchTrainer(
        # A `train_loop_config` would be read by Ray's controller, which then imports all we do.
        lambda: _run_worker(job),
        # NCCL refuses two workers on one GPU.
        torch_config=TorchConfig(backend="nccl" if workers.gpus == 1 else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus > 0,
            resources_per_worker=workers.resources,
        ),
        run_config=RunConfig(
            name=ascii_name(job.directory.name),
            storage_path=str(job.directory / CHECKPOINTS / "ray"),
            worker_runtime_env={} if workers.gpus else {"env_vars": KEEP_MEMORY},
            failure_config=FailureConfig(controller_failure_limit=0),
        ),
    )


def _run_worker(job: WorkerJob) -> None:
    """Run the loop on a worker of Ray Train.

    Raises:
        UserError: this node does not see the run directory; or as `train`.
    """
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    nll = train(received(job), WorkerProcess(rank, workers, ray.train.torch.get_device()))
    if job.stop_after is not None and rank == 0:
        finite = nll if nll is not None and math.isfinite(nll) else None
        write_whole(job.directory / STOPPED, dumps({"step": job.stop_after, "nll": finite}))


def received(job: WorkerJob) -> WorkerJob:
    """A job with its text, on the worker that is given it.

    Raises:
        UserError: this node does not see the run directory.
    """
    if not (job.directory / SETTINGS).is_file():
        raise UserError(
            f"{job.directory} is not there on {socket.gethostname()}: --out must be on a file "
            "system that all nodes share"
        )
    text = tuple(ray.get(part) if isinstance(part, ray.ObjectRef) else part for part in job.text)
    validation = None if job.validation is None else ray.get(job.validation)
    return replace(job, text=text, validation=validation)
