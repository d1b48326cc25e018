"""Sharded over workers and not, switched in the middle: the same losses and the same network."""

from __future__ import annotations

import ctypes
import multiprocessing
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evo.errors import UserError
from evo.genome.subnet import Widths
from evo.model import checkpoint
from evo.model.layerwise_gpt import build, tie
from tests.support import tiny_checkpoints
from tests.support.alone import job_of, settings_of, train_alone
from training.logs import log
from training.loop.init_weights import initialise
from training.loop.loop import MOST_SKIPPED, _micro_batches
from training.loop.parallel import Execution, WorkerProcess, spread_student
from training.loop.student import Student
from training.loop.train_state import WorkerJob
from training.losses.settings import LossSettings

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h

SHARDED = Execution("fsdp", shard_teacher=True)


def layerwise(directory: Path) -> Path:
    """A Llama whose two blocks differ in width, with tied embeddings."""
    stored = checkpoint.load(tiny_checkpoints.llama(directory / "uniform"))
    model = build(stored.config, Widths(32, (2, 1), (48, 20)))
    initialise(model, torch.Generator().manual_seed(0))
    tie(model)
    checkpoint.save(directory / "layerwise", model)
    return directory / "layerwise"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> WorkerJob:
    """Forty distilled steps of one worker; three micro-batches of a sequence each.

    Two workers have two and one, and so take part in a turn that has nothing for the second.
    """
    root = tmp_path_factory.mktemp("parallel")
    distilled = job_of(
        root / "one",
        layerwise(root),
        np.load(tiny_checkpoints.text(root / "text.npy")),
        teacher=tiny_checkpoints.neox(root / "teacher", seed=5),
        validation=np.load(tiny_checkpoints.text(root / "validation.npy", blocks=5, seed=1)),
        settings=settings_of(
            steps=40,
            batch=3,
            micro_batch=1,
            validate_every=16,
            checkpoint_every=4,
            loss=LossSettings(0.2, 0.8, 0.9, 60),
        ),
    )
    train_alone(distilled, 1)
    return distilled


def logged(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in log.MEASURED} for row in log.rows(run)]


def assert_close(one: Path, other: Path, rel: float = 1e-5) -> None:
    for row, same in zip(logged(one), logged(other), strict=True):
        assert same.pop("blocks", None) == row.pop("blocks", None)
        assert same == pytest.approx(row, rel=rel)
    if rel > 1e-5:
        return
    theirs = checkpoint.load(other / "model")
    assert theirs.tied
    for name, tensor in checkpoint.load(one / "model").weights.items():
        torch.testing.assert_close(theirs.weights[name], tensor, rtol=1e-4, atol=1e-5)


def test_two_workers_with_parts_of_the_networks_train_as_one_with_the_whole(
    job: WorkerJob, tmp_path: Path
) -> None:
    train_alone(replace(job, directory=tmp_path, execution=SHARDED), 2)
    assert_close(job.directory, tmp_path)


@pytest.mark.slow
def test_a_run_goes_on_sharded_and_whole_in_turn(job: WorkerJob, tmp_path: Path) -> None:
    for execution, workers, kill_at in (
        (SHARDED, 2, 10),
        (Execution(activation_checkpointing=True), 1, 18),
        (Execution("fsdp", reduce_each=True), 2, 30),
        (Execution(), 2, None),
    ):
        train_alone(replace(job, directory=tmp_path, execution=execution), workers, kill_at=kill_at)
    assert_close(job.directory, tmp_path)


@pytest.mark.slow
def test_weights_that_are_gathered_in_bfloat16(job: WorkerJob, tmp_path: Path) -> None:
    settings = replace(job.settings, steps=10, precision="bfloat16")
    for execution, workers in ((Execution(), 1), (SHARDED, 2)):
        run = tmp_path / execution.parallel
        run.mkdir()
        train_alone(replace(job, directory=run, settings=settings, execution=execution), workers)
    assert_close(tmp_path / "ddp", tmp_path / "fsdp", rel=1e-2)
    whole, sharded = (
        checkpoint.load(tmp_path / name / "model").weights for name in ("ddp", "fsdp")
    )
    assert all(tensor.dtype == torch.float32 for tensor in sharded.values())
    name = "transformer.h.0.attn.qkv.weight"
    moved = whole[name] - checkpoint.load(job.student).weights[name]
    assert (sharded[name] - whole[name]).norm() < 0.2 * moved.norm()


def test_micro_batches_are_even_and_as_many_for_every_worker() -> None:
    assert list(_micro_batches(7, 3)) == [
        (slice(0, 2), True, False), (slice(2, 4), True, False), (slice(4, 7), True, True)
    ]  # fmt: skip
    assert list(_micro_batches(1, 2)) == [(slice(0, 1), False, False), (slice(0, 1), True, True)]


def gradients(checkpointing: bool, results: Any) -> None:
    """Those of one backward pass, and by how many bytes it raised the process's peak."""
    torch.set_num_threads(1)
    # Each tensor in pages of its own: else what the allocator keeps for later hides what is freed.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)
    config = checkpoint.load_config(Path(results[1]))[0]
    model = build(config, Widths(64, (4,) * 16, (256,) * 16)).train()
    initialise(model, torch.Generator().manual_seed(0))
    student = Student(model, LossSettings())
    execution = Execution(activation_checkpointing=checkpointing)
    network = spread_student(
        student, WorkerProcess(0, 1, torch.device("cpu")), execution, "float32"
    )
    tokens = torch.randint(60, (128, 32), generator=torch.Generator().manual_seed(1))
    network(tokens[:1], None)[0].backward()
    model.zero_grad()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    network(tokens, None)[0].backward()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {name: p.grad.numpy() for name, p in model.named_parameters()}
    results[0].put(((peak - before) * 1024, found))


def test_activation_checkpointing_gives_the_same_gradients_in_less_memory(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.loop.loop"])
    model = tiny_checkpoints.neox(tmp_path / "model")
    found = []
    for checkpointing in (False, True):
        queue = context.SimpleQueue()
        process = context.Process(target=gradients, args=(checkpointing, (queue, str(model))))
        process.start()
        found.append(queue.get())
        process.join()
    (whole, expected), (saved, same) = found
    assert saved < 0.5 * whole
    for name, gradient in expected.items():
        assert np.array_equal(gradient, same[name])


@pytest.mark.slow
def test_compiled_blocks_train_alike(job: WorkerJob, tmp_path: Path) -> None:
    """Two blocks that differ, one worker, a few steps and both validations."""
    settings = replace(job.settings, steps=3)
    for name, execution in (("eager", Execution()), ("compiled", Execution(compile=True))):
        (tmp_path / name).mkdir()
        train_alone(
            replace(job, directory=tmp_path / name, settings=settings, execution=execution), 1
        )
    assert_close(tmp_path / "eager", tmp_path / "compiled")


@pytest.fixture
def with_a_bad_token(tmp_path: Path) -> WorkerJob:
    """Token 50 is in one block in ten, and its embedding is not a number."""
    stored = checkpoint.load(tiny_checkpoints.neox(tmp_path / "good"))
    stored.weights["transformer.wte.weight"][50] = torch.nan
    checkpoint.save(tmp_path / "model", stored.model())
    text = np.load(tiny_checkpoints.text(tmp_path / "text.npy")) % 50
    text[::10, 3] = 50
    return job_of(
        tmp_path / "run",
        tmp_path / "model",
        text,
        settings=settings_of(steps=20, batch=2, micro_batch=1, validate_every=0, on_nan="skip"),
    )


@pytest.mark.slow
def test_steps_that_are_not_finite_are_left_out_by_all_workers(
    with_a_bad_token: WorkerJob, tmp_path: Path
) -> None:
    bad = [
        any(block % 10 == 0 for block in with_a_bad_token.sampler.step(step).blocks)
        for step in range(20)
    ]
    assert 0 < sum(bad) < 20
    train_alone(with_a_bad_token, 1)
    rows = log.rows(with_a_bad_token.directory)[1:]
    assert [row.get("skipped", 0) for row in rows] == np.cumsum(bad).tolist()
    assert ["loss" not in row for row in rows] == bad
    weight = checkpoint.load(with_a_bad_token.directory / "model").weights["transformer.wte.weight"]
    assert not torch.isfinite(weight[50]).any()
    assert torch.isfinite(weight[:50]).all()
    two = replace(with_a_bad_token, directory=tmp_path / "two", execution=Execution("fsdp"))
    two.directory.mkdir()
    train_alone(two, 2, kill_at=14)
    train_alone(two, 2)
    for row, same in zip(logged(with_a_bad_token.directory), logged(two.directory), strict=True):
        assert same.pop("blocks", None) == row.pop("blocks", None)
        assert same == pytest.approx(row, rel=1e-5)


def test_such_a_step_ends_a_run_unless_it_is_to_be_left_out(with_a_bad_token: WorkerJob) -> None:
    with pytest.raises(UserError, match=r"the loss is nan at step .* --on-nan skip"):
        train_alone(
            replace(with_a_bad_token, settings=replace(with_a_bad_token.settings, on_nan="stop")), 1
        )
    with_a_bad_token.text[0][:, 3] = 50
    with pytest.raises(UserError, match=f"in {MOST_SKIPPED} steps in a row, up to step 10"):
        train_alone(with_a_bad_token, 1)
