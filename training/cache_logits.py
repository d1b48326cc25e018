"""`evo cache-logits`: run a teacher over a text once on Ray, and keep its top k."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError
from ray.util import ActorPool
from rich.filesize import decimal

from evo.data.token_blocks import sequence_length_of
from evo.data.token_shards import Blocks
from evo.errors import UserError, first_line
from evo.genome.cost import forward_flops
from evo.model import checkpoint
from evo.progress import WorkProgress, duration, seconds_left
from evo.ray_connection import connect
from evo.storage.checksums import Summed, damaged
from evo.storage.files import exclusive
from evo.storage.run_directory import claim_run
from training.config import CacheLogitsConfig
from training.data.training_text import open_training_text
from training.setup.worker_resources import workers_and_gpus
from training.teacher.logits_maker import LogitsMaker
from training.teacher.stored_logits import (
    LogitsSettings,
    Tokens,
    bytes_per_block,
    read_manifest,
    write_manifest,
)

SHARD_BYTES = 2**28
"""The most bytes of a shard of more than one sequence."""

RESTARTS = 4
"""A worker that dies is restarted, and a shard tried again, this often."""

FREE = ("teacher", "text", "flops")
"""Settings that may differ at every start: hashes of the content stand beside the paths, and the
FLOPs follow from the others."""


@dataclass(frozen=True)
class LogitsRun:
    """A run of `evo cache-logits`.

    Attributes:
        directory: the directory of the logits, absolute.
        config: the settings that the user has given.
        settings: settings of the logits.
        blocks: token ids of each source, shape [N, T].
        workers: number of workers that run the teacher in parallel.
        gpus_per_worker: share of a GPU for each worker, 0 for the CPU.
    """

    directory: Path
    config: CacheLogitsConfig
    settings: LogitsSettings
    blocks: Sequence[Tokens | Blocks]
    workers: int
    gpus_per_worker: float


def cache_logits(config: CacheLogitsConfig) -> dict[str, Any]:
    """Make the directory, or go on with it.

    Returns:
        `sequences`, `tokens`, `bytes`, and the teacher's `flops`.

    Raises:
        UserError: bad input, a directory of other settings, or no room on the disk.
    """
    run = open_logits_run(config)
    out, settings = run.directory, run.settings
    claim_run(out, asdict(settings), free=FREE, first=connect)
    with exclusive(out):
        for leftover in out.glob(".shard-*.tmp"):  # a process was killed
            leftover.unlink()
        known = read_manifest(out)
        broken = damaged(out, list(known.values()))
        done = {name: shard for name, shard in known.items() if name not in broken}
        missing = [name for name in settings.shards if name not in done]
        most = min(len(missing) * settings.blocks_per_shard, settings.blocks)  # the last is less
        _check_room(out, most * settings.bytes_per_block)
        if missing:
            _make(run, done, missing)
    if lost := [name for name in settings.shards if not (out / name).is_file()]:
        raise UserError(
            f"{out / lost[0]} is not there, though it was written: --out must be on a file system "
            "that all nodes share"
        )
    size = sum((out / name).stat().st_size for name in settings.shards)
    return {
        "sequences": settings.blocks,
        "tokens": settings.blocks * settings.sequence_length,
        "bytes": size,
        "flops": settings.flops,
    }


def open_logits_run(config: CacheLogitsConfig) -> LogitsRun:
    """Read and check everything that a run needs, and resolve its settings.

    Raises:
        UserError: bad input.
    """
    workers, gpus_per_worker = workers_and_gpus(config.workers, config.gpus_per_worker)
    teacher = checkpoint.load(config.teacher)
    vocabulary = min(config.vocabulary or teacher.vocabulary, teacher.vocabulary)
    if config.top_k >= vocabulary:
        raise UserError(
            f"--top-k {config.top_k} keeps the whole vocabulary of {vocabulary}: give less, or "
            "distil without --teacher-logits"
        )
    sources = [config.text] if isinstance(config.text, str) else list(config.text)
    text = open_training_text(
        sources,
        [1.0] * len(sources),
        student=teacher,
        vocabulary=vocabulary,
        sequence_length=sequence_length_of(config.sequence_length, teacher.config.block_size),
        tokens=config.tokens,
        shuffle_tokens=1,
        reading=config.reading,
    )
    blocks: list[Tokens | Blocks] = [
        source.known_blocks("evo cache-logits") for source in text.sources
    ]
    count, length = sum(map(len, blocks)), text.sequence_length
    ids = None if teacher.tokenizer is None else teacher.tokenizer.ids
    per_token = forward_flops(teacher.architecture, teacher.widths, length)
    settings = LogitsSettings(
        teacher=str(config.teacher),
        teacher_hash=teacher.hash,
        tokenizer_hash=None if ids is None else ids.parts,
        added_tokens={} if ids is None else dict(ids.added),
        text=sources,
        text_hash=text.hash,
        blocks=count,
        sequence_length=length,
        vocabulary=vocabulary,
        top_k=config.top_k,
        dtype=config.dtype,
        precision=config.precision or ("bfloat16" if gpus_per_worker else "float32"),
        blocks_per_shard=max(
            1, SHARD_BYTES // bytes_per_block(length, vocabulary, config.top_k, config.dtype)
        ),
        flops=count * length * per_token,
    )
    directory = Path(config.out).absolute()
    return LogitsRun(directory, config, settings, blocks, workers, gpus_per_worker)


def _check_room(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if needed > free:
        raise UserError(
            f"{out} has {decimal(free)} of room, and up to {decimal(needed)} are needed: "
            "give a smaller --top-k, or --dtype float16"
        )


def _make(run: LogitsRun, done: dict[str, Summed], missing: list[str]) -> None:
    """Make the missing shards, and add each to the manifest of those that are done.

    Raises:
        UserError: a worker raised one, has too little memory, or died too often.
    """
    connect()
    directory, config, settings = run.directory, run.config, run.settings
    cores = ray.cluster_resources().get("CPU", 1.0)
    workers = min(run.workers, len(missing))
    kind = ray.remote(
        num_cpus=min(1.0, cores / workers),
        num_gpus=run.gpus_per_worker,
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
    )(LogitsMaker)
    threads = config.threads or max(1, len(os.sched_getaffinity(0)) // workers)
    on_gpu = run.gpus_per_worker > 0
    text, teacher = ray.put(run.blocks), Path(config.teacher).absolute()
    actors: list[Any] = [
        kind.remote(teacher, settings, text, on_gpu, config.micro_batch, threads)
        for _ in range(workers)
    ]
    pool = ActorPool(actors)
    number = {name: index for index, name in enumerate(settings.shards)}
    try:
        with WorkProgress(directory.name, len(settings.shards)) as progress:
            made = pool.map_unordered(
                lambda actor, name: actor.make.remote(directory / name, number[name]), missing
            )
            for count, shard in enumerate(made, 1):
                done[shard.file] = shard
                write_manifest(directory, done.values())
                left = duration(seconds_left(progress.seconds, count, len(missing) - count))
                state = f"shard {len(done)}/{len(settings.shards)}, {left} left"
                progress.update(len(done), state)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        if isinstance(error.cause, torch.OutOfMemoryError):
            raise UserError(
                f"{config.teacher} does not fit in memory with {config.micro_batch} sequences at "
                "once: give a smaller --micro-batch"
            ) from error
        raise
    except RayActorError as error:
        raise UserError(
            f"a worker died {RESTARTS + 1} times, at last of: {first_line(error)}; what is "
            "finished stays, the same command goes on"
        ) from error
    finally:
        for actor in actors:
            ray.kill(actor)
