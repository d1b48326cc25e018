"""A teacher's logits on disk, made and read on a real Ray."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from evo.embedded import teacher_path
from evo.errors import UserError
from evo.model import checkpoint
from evo.ray_connection import connect
from evo.storage.run_directory import claim_run
from tests.support import tiny_checkpoints
from tests.support.alone import launch_here
from tests.support.drivers import kill_driver
from training.cache_logits import cache_logits, open_logits_run
from training.config import CacheLogitsConfig, PretrainConfig
from training.logs import log
from training.loop.flops import training_flops
from training.losses.chunked_loss import head_of, summed_losses
from training.losses.settings import LossSettings
from training.pretrain import pretrain
from training.setup.inputs import read_inputs
from training.teacher.logits_maker import LogitsMaker, rows_of
from training.teacher.network import load_teacher, teacher_states
from training.teacher.stored_logits import open_teacher_logits, write_manifest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


BLOCKS, LENGTH, K = 50, 17, 12
SHARD_BYTES = 7 * (8 + (LENGTH - 1) * (K * 6 + 4))
"""Of seven sequences."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logits")


@pytest.fixture(scope="module")
def config(root: Path) -> CacheLogitsConfig:
    """Of seven sequences to a shard, so of eight shards, the last one with a single sequence."""
    return CacheLogitsConfig(
        teacher=tiny_checkpoints.neox(root / "teacher", padded=72, channels=48, seed=3),
        text=tiny_checkpoints.text(root / "text.npy"),
        tokens=BLOCKS * LENGTH,
        out=root / "logits",
        top_k=K,
        vocabulary=tiny_checkpoints.VOCABULARY,
        workers=1,
        gpus_per_worker=0,
        micro_batch=3,
        threads=1,
    )


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.cache_logits.SHARD_BYTES", SHARD_BYTES)


def cache_in_small_shards(config: CacheLogitsConfig) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.cache_logits.SHARD_BYTES", SHARD_BYTES)
        return cache_logits(config)


@pytest.fixture(scope="module")
def made(config: CacheLogitsConfig) -> dict[str, Any]:
    connect()
    return cache_in_small_shards(config)


def make_here(config: CacheLogitsConfig) -> None:
    """What `cache_logits` does, without Ray."""
    run = open_logits_run(config)
    settings = run.settings
    claim_run(config.out, asdict(settings))
    maker = LogitsMaker(config.teacher, settings, run.blocks, False, config.micro_batch, 1)
    names = enumerate(settings.shards)
    write_manifest(config.out, [maker.make(config.out / name, n) for n, name in names])


def test_moved_text_and_teacher_make_the_same_logits(
    config: CacheLogitsConfig, tmp_path: Path
) -> None:
    first = replace(config, out=tmp_path / "first")
    assert isinstance(config.text, str | Path)
    moved = replace(
        config,
        teacher=shutil.copytree(config.teacher, tmp_path / "teacher"),
        text=str(shutil.copy(config.text, tmp_path / "text.npy")),
        out=tmp_path / "moved",
    )
    for each in (first, moved):
        make_here(each)
    assert open_teacher_logits(first.out).hash == open_teacher_logits(moved.out).hash


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("shard-*")}


def plain_top_k(config: CacheLogitsConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """By litgpt's own forward in float64: all log-probabilities, and the ids by likelihood."""
    model = checkpoint.load(config.teacher).model().double()
    tokens = torch.from_numpy(np.load(config.text)).long()
    with torch.no_grad():
        logits = model(tokens[:, :-1])[..., : tiny_checkpoints.VOCABULARY]
    own = logits.log_softmax(-1)
    return own, own.argsort(-1, descending=True)


def test_holds_the_teachers_top_k(config: CacheLogitsConfig, made: dict[str, Any]) -> None:
    expected, order = plain_top_k(config)
    shards = [load_file(path) for path in sorted(config.out.glob("shard-*"))]
    assert [len(shard["block"]) for shard in shards] == [7] * 7 + [1]
    values, ids, rest = (
        torch.from_numpy(np.concatenate([shard[name] for shard in shards]).astype(kind))
        for name, kind in (("log_probability", "f8"), ("ids", "i8"), ("log_rest", "f8"))
    )
    assert shards[0]["ids"].dtype == np.uint16
    assert torch.equal(ids, order[..., :K])
    torch.testing.assert_close(values, expected.gather(-1, ids), rtol=0, atol=1e-5)
    others = expected.gather(-1, order[..., K:]).logsumexp(-1)
    torch.testing.assert_close(rest, others, rtol=0, atol=1e-5)
    teacher = checkpoint.load(config.teacher)
    per_token = training_flops(teacher, teacher, LENGTH)
    assert made == {
        "sequences": BLOCKS,
        "tokens": BLOCKS * LENGTH,
        "bytes": sum(len(content) for content in contents(config.out).values()),
        "flops": BLOCKS * LENGTH * per_token // 4,
    }


def test_the_loss_equals_that_of_the_running_teacher(
    config: CacheLogitsConfig, made: dict[str, Any]
) -> None:
    """For sequences in any order, any temperature, and fewer tokens than were kept."""
    kept = open_teacher_logits(config.out)
    teacher = load_teacher(config.teacher, "float32", sequence_length=1024)
    rows = np.load(config.text)[np.random.default_rng(0).permutation(BLOCKS)[:20]]
    tokens = torch.from_numpy(rows.astype(np.int64))
    student = checkpoint.load(tiny_checkpoints.llama(config.out.parent / "loss-student")).model()
    hidden = torch.randn(20 * (LENGTH - 1), 32, generator=torch.Generator().manual_seed(0))
    for top_k, temperature, tail in (
        (K, 0.9, "bucket"),
        (5, 2.0, "bucket"),
        (K, 1.0, "renormalise"),
    ):
        settings = LossSettings(
            0.2, 0.8, temperature, tiny_checkpoints.VOCABULARY, top_k=top_k, tail=tail
        )
        online, cached = (
            summed_losses(hidden, head_of(student), tokens[:, 1:].flatten(), settings, view)
            for view in (teacher_states(teacher, tokens), kept.top_k(rows))
        )
        assert cached.divergence.item() > 1
        assert cached.total.item() == pytest.approx(online.total.item(), rel=1e-6)
        assert cached.divergence.item() == pytest.approx(online.divergence.item(), rel=1e-5)


def test_half_the_precision_changes_the_loss_little(
    config: CacheLogitsConfig, made: dict[str, Any]
) -> None:
    half = replace(config, dtype="float16", out=config.out.with_name("half"))
    make_here(half)
    sizes = [sum(map(len, contents(one.out).values())) for one in (half, config)]
    assert sizes[0] < 0.75 * sizes[1]
    rows = np.load(config.text)
    exact, rounded = (open_teacher_logits(one.out).top_k(rows) for one in (config, half))
    assert torch.equal(exact.ids, rounded.ids)
    difference = (exact.log_probability - rounded.log_probability).abs()
    assert 0 < difference.max() < exact.log_probability.abs().max() * 2**-11
    student = checkpoint.load(tiny_checkpoints.llama(config.out.parent / "half-student")).model()
    hidden = torch.randn(BLOCKS * (LENGTH - 1), 32, generator=torch.Generator().manual_seed(0))
    targets = torch.from_numpy(rows.astype(np.int64))[:, 1:].flatten()
    settings = LossSettings(0.0, 1.0, 0.9, tiny_checkpoints.VOCABULARY, top_k=K)
    one, other = (
        summed_losses(hidden, head_of(student), targets, settings, view).divergence.item()
        for view in (exact, rounded)
    )
    assert other == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
def test_a_killed_process_goes_on_and_a_damaged_shard_is_made_anew(
    config: CacheLogitsConfig, made: dict[str, Any], tmp_path: Path
) -> None:
    other = replace(config, out=tmp_path / "killed")
    manifest = other.out / "manifest.json"

    def has_two_shards() -> bool:
        return manifest.is_file() and len(json.loads(manifest.read_text())) >= 2

    kill_driver(cache_in_small_shards, other, when=has_two_shards)
    finished = [one["file"] for one in json.loads(manifest.read_text())]
    with pytest.raises(UserError, match=rf"has {len(finished)} of 8 shards"):
        open_teacher_logits(other.out)
    damaged, kept = finished[:2]
    (other.out / damaged).write_bytes((other.out / damaged).read_bytes()[:-1] + b"\xff")
    untouched = (other.out / kept).stat().st_mtime_ns
    cache_logits(other)
    assert contents(other.out) == contents(config.out)
    assert (other.out / kept).stat().st_mtime_ns == untouched
    assert cache_logits(replace(other, workers=2)) == made
    assert not list(other.out.glob(".shard*"))


@pytest.fixture(scope="module")
def run(config: CacheLogitsConfig, made: dict[str, Any], root: Path) -> PretrainConfig:
    """A student that is distilled from what was kept."""
    return PretrainConfig(
        model=tiny_checkpoints.llama(root / "student"),
        text=config.text,
        tokens=6 * 5 * LENGTH,
        out=root / "cached",
        teacher_logits=config.out,
        batch_tokens=5 * LENGTH,
        learning_rate=1e-2,
        micro_batch=2,
        workers=1,
        threads=1,
        gpus_per_worker=0,
    )


def test_a_run_learns_from_them_as_from_the_teacher(
    run: PretrainConfig, config: CacheLogitsConfig, made: dict[str, Any]
) -> None:
    online = replace(
        run, teacher=config.teacher, teacher_logits=None, top_k=K, out=run.out.with_name("online")
    )
    summary = pretrain(run, launch=launch_here)
    pretrain(online, launch=launch_here)
    rows, expected = log.rows(run.out), log.rows(online.out)
    assert len(rows) == 7
    for one, other in zip(rows[1:], expected[1:], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["divergence"] == pytest.approx(other["divergence"], rel=1e-5)
    settings = summary["settings"]
    assert settings["loss"]["top_k"] == K
    assert settings["teacher_hash"] == checkpoint.load(config.teacher).hash
    assert settings["teacher_logits_flops"] == made["flops"]
    student = checkpoint.load(run.model)
    assert settings["flops_per_token"] == training_flops(student, None, LENGTH)


def test_what_does_not_fit_is_refused(
    run: PretrainConfig, config: CacheLogitsConfig, tmp_path: Path
) -> None:
    changed = np.load(config.text)
    changed[3, 5] = (changed[3, 5] + 1) % tiny_checkpoints.VOCABULARY
    np.save(tmp_path / "changed.npy", changed)
    other = tiny_checkpoints.neox(tmp_path / "other", seed=9)
    for changes, message in (
        ({"text": str(tmp_path / "changed.npy")}, "other text than .*: 1 of 50 sequences"),
        ({"teacher": other}, "logits of another teacher"),
        ({"top_k": K + 1}, rf"--top-k {K + 1} is more than the {K}"),
        ({"teacher_logits": tmp_path}, "has no teacher's logits"),
        ({"teacher": config.teacher, "alpha": 0.0, "beta": 0.0}, "leaves no loss"),
    ):
        with pytest.raises(UserError, match=message):
            pretrain(replace(run, out=tmp_path / "out", **changes))
        assert not (tmp_path / "out").exists()
    for changes, message in (
        ({"top_k": 60}, "whole vocabulary of 60"),
        ({"top_k": 0}, "--top-k 0"),
        ({"teacher": other}, "the checkpoint that --teacher names has other content"),
        ({"text": str(tmp_path / "changed.npy")}, "the text that --text names has other content"),
        ({"dtype": "float16"}, "other settings"),
    ):
        with pytest.raises(UserError, match=message):
            cache_logits(replace(config, **changes))


def test_rows_are_counted_through_all_sources() -> None:
    sources = [np.arange(10).reshape(5, 2), np.arange(10, 14).reshape(2, 2)]
    whole = np.concatenate(sources)
    for numbers in (range(3), range(4, 6), range(5, 7), range(2, 99)):
        found = rows_of(sources, numbers)
        assert np.array_equal(found, whole[numbers.start : numbers.stop])


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    """Of a student with the teacher's own weights, but another file of its tokenizer."""
    (tmp_path / "text.txt").write_text("for word in words:\n    print(word)\n" * 40)
    config = CacheLogitsConfig(
        teacher=teacher_path(),
        text=str(tmp_path / "text.txt"),
        tokens=300,
        out=tmp_path / "logits",
        top_k=8,
        sequence_length=32,
        workers=1,
        gpus_per_worker=0,
    )
    make_here(config)
    shutil.copytree(teacher_path(), tmp_path / "student")
    run = PretrainConfig(
        model=tmp_path / "student",
        text=config.text,
        tokens=300,
        out=tmp_path / "out",
        teacher_logits=config.out,
    )
    inputs = read_inputs(run)
    assert inputs.text.sequence_length == 32
    path = tmp_path / "student" / "tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content, indent=7))
    assert read_inputs(run).text.hash == inputs.text.hash
    content["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="made with another tokenizer"):
        read_inputs(run)


def test_a_damaged_or_missing_shard_is_named(
    run: PretrainConfig, config: CacheLogitsConfig, tmp_path: Path
) -> None:
    path = config.out / "shard-000002.safetensors"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-9] + b"\x00" * 9)
        with pytest.raises(UserError, match=r"shard-000002.safetensors is damaged"):
            pretrain(replace(run, out=tmp_path / "out"))
        path.unlink()
        with pytest.raises(UserError, match=r"shard-000002.safetensors is missing"):
            pretrain(replace(run, out=tmp_path / "out"))
    finally:
        path.write_bytes(content)
