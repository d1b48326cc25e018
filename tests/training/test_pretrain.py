"""Whole runs: on Ray Train what depends on it, all else here."""

from __future__ import annotations

import json
import math
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evo.data.prepared_corpus import Manifest
from evo.data.token_shards import write_shard
from evo.errors import UserError
from evo.genome.subnet import Subnet
from evo.model import checkpoint
from evo.model.extract import extract
from evo.model.tokenizer import Tokenizer
from evo.ray_connection import connect
from evo.storage.files import exclusive
from tests.support import tiny_checkpoints
from tests.support.alone import launch_here, settings_of
from tests.support.bpe import write_tokenizer
from tests.support.corpora import random_documents, stream, write_jsonl
from tests.support.drivers import kill_driver
from training.config import PretrainConfig
from training.data.prefetch import digest
from training.data.sampler import Extent, Sampler
from training.evaluation.evaluate import evaluate
from training.logs import log
from training.loop.flops import training_flops
from training.loop.run_settings import default_batch_tokens, default_learning_rate
from training.losses.settings import LossSettings
from training.pretrain import pretrain
from training.setup.launch import launch_on_ray_train
from training.setup.training_run import TrainingRun

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


STEPS, BATCH, LENGTH = 20, 6, 17


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """Of a short run with several checkpoints, epochs and micro-batches."""
    root = tmp_path_factory.mktemp("pretrain")
    return PretrainConfig(
        model=tiny_checkpoints.neox(root / "model"),
        text=tiny_checkpoints.text(root / "text.npy"),
        tokens=STEPS * BATCH * LENGTH,
        out=root / "whole",
        validation_text=tiny_checkpoints.text(root / "validation.npy", blocks=9, seed=1),
        batch_tokens=BATCH * LENGTH,
        learning_rate=1e-2,
        validate_every=8,
        checkpoint_every=4,
        micro_batch=4,
        workers=1,
        threads=1,
        gpus_per_worker=0,
        loggers=["tensorboard", "csv"],
    )


@pytest.fixture(scope="module")
def whole(config: PretrainConfig) -> dict[str, Any]:
    """The summary of a run on Ray Train whose driver was killed, and started again."""
    connect()
    kill_driver(pretrain, config, when=lambda: log.last_step(config.out) >= STEPS // 2)
    assert log.last_step(config.out) < STEPS
    assert not (config.out / "summary.json").exists()
    return pretrain(config)


@pytest.fixture(scope="module")
def here(config: PretrainConfig) -> PretrainConfig:
    """The same run without Ray Train, finished."""
    same = replace(config, out=config.out.with_name("here"))
    pretrain(same, launch=launch_here)
    return same


def logged(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in log.MEASURED} for row in log.rows(run)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(run / "model").weights


def cut_of(teacher: Path, directory: Path) -> Path:
    """A layer-wise subnet of a teacher, written as a search writes its winner."""
    stored = checkpoint.load(teacher)
    full = Subnet.full(stored.architecture.dimensions)
    groups, neurons = full.groups.copy(), full.neurons.copy()
    groups[1, 1:] = neurons[0, ::3] = False
    subnet = Subnet(full.layers, full.channels, groups, neurons)
    model = extract(stored, subnet)
    checkpoint.save(directory, model, origin={"teacher_hash": stored.hash})
    return directory


def assert_loggers_show_the_log(run: Path) -> None:
    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    table = pd.read_csv(run / "log.csv")
    assert list(table["step"]) == [row["step"] for row in log.rows(run)]
    for name in ("loss", "validation_perplexity", "learning_rate", "flops"):
        wanted = {row["step"]: row[name] for row in log.rows(run) if name in row}
        shown = {event.step: event.value for event in found.Scalars(name)}
        assert shown == pytest.approx(wanted, rel=1e-6)
        assert table[name].count() == len(found.Scalars(name)) == len(wanted)


def assert_same_run(one: Path, other: Path) -> None:
    assert logged(one) == logged(other)
    theirs = weights(other)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights(one).items())


def kill_when_logged(run: Path, step: int, name: str) -> threading.Thread:
    """Kill one of this process's descendants once a run has logged a step."""

    def wait_and_kill() -> None:
        while log.last_step(run) < step:
            time.sleep(0.005)
        children = psutil.Process().children(recursive=True)
        next(child for child in children if name in " ".join(child.cmdline())).kill()

    thread = threading.Thread(target=wait_and_kill, daemon=True)
    thread.start()
    return thread


@pytest.mark.timeout(600)
def test_the_log_and_the_result(config: PretrainConfig, whole: dict[str, Any]) -> None:
    rows = log.rows(config.out)
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    assert rows[-1]["tokens"] == config.tokens
    assert all(0 <= row["data_seconds"] <= row["seconds"] for row in rows[1:])
    validated = [row["step"] for row in rows if "validation_perplexity" in row]
    assert validated == [0, 8, 16, STEPS]
    assert rows[-1]["validation_perplexity"] < 0.5 * rows[0]["validation_perplexity"]
    assert rows[-1]["learning_rate"] < 0.12 * config.learning_rate
    assert whole["validation_perplexity"] == rows[-1]["validation_perplexity"]
    assert (
        whole["flops"] == rows[-1]["flops"] == config.tokens * whole["settings"]["flops_per_token"]
    )
    found = evaluate(config.out / "model", config.validation_text, device="cpu")
    assert found["perplexity"] == pytest.approx(whole["validation_perplexity"], rel=1e-5)
    assert json.loads((config.out / "model" / "subnet.json").read_text())["pretraining"]
    assert not (config.out / "checkpoints").exists()


def test_the_first_loss_and_step_equal_plain_pytorch(here: PretrainConfig) -> None:
    """AdamW on cross-entropy over the same batches, written the usual way."""
    blocks = np.load(here.text)
    sampler = Sampler(BATCH, (Extent(len(blocks)),), (1.0,), 0)
    model = checkpoint.load(here.model).model().train()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    for row in log.rows(here.out)[1:]:
        batch = sampler.step(row["step"] - 1).blocks
        tokens = torch.from_numpy(blocks[batch].astype(np.int64))
        assert row["blocks"] == f"{digest(tokens.numpy()) % 2**64:016x}"
        logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-4)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = row["learning_rate"]
        optimizer.step()
        optimizer.zero_grad()


def test_utilisation_is_relative_to_the_rate_that_the_log_begins_with(
    here: PretrainConfig,
) -> None:
    rows = log.rows(here.out)
    flops = json.loads((here.out / "summary.json").read_text())["settings"]["flops_per_token"]
    for row in rows[1:]:
        work = row["tokens_per_second"] * flops
        assert row["mfu"] == pytest.approx(
            work / rows[0]["device_flops_per_second"], rel=1e-3, abs=1e-4
        )


def test_a_killed_driver_goes_on_at_the_next_step(
    config: PretrainConfig, whole: dict[str, Any], here: PretrainConfig
) -> None:
    assert_same_run(here.out, config.out)
    assert_loggers_show_the_log(config.out)


@pytest.mark.slow
def test_a_mixture_of_a_prepared_corpus_and_a_stream(
    config: PretrainConfig, tmp_path: Path
) -> None:
    """On two workers, one of them killed: no step's blocks are skipped or read twice, and the run
    is that of one worker that nothing disturbed."""
    connect()
    model = tiny_checkpoints.neox(tmp_path / "model", padded=320, vocabulary=300)
    write_tokenizer(model)
    tokenizer = Tokenizer(model)
    (tmp_path / "streamed").mkdir()
    texts = [random_documents(80, seed, most=30) for seed in range(3)]
    for number, some in enumerate(texts):
        write_jsonl(tmp_path / "streamed" / f"train-{number}.jsonl", some)
    prepared = stream(random_documents(80, seed=7), tokenizer)
    (tmp_path / "prepared").mkdir()
    shards = [
        write_shard(tmp_path / "prepared" / f"{n}.arrow", part)
        for n, part in enumerate(np.array_split(prepared.astype(np.uint16), 3))
    ]
    made_by = (tokenizer.hash, tokenizer.end_of_text)
    manifest = Manifest(["text"], [], *made_by, None, 80, len(prepared), "uint16", shards)
    manifest.save(tmp_path / "prepared")
    mixed = replace(
        config,
        model=model,
        text=[str(tmp_path / "prepared"), f"hf:{tmp_path / 'streamed'}:train"],
        text_weights=[3.0, 1.0],
        shuffle_tokens=7 * LENGTH,
        sequence_length=LENGTH,
        validation_text=None,
        out=tmp_path / "run",
        workers=2,
        log_blocks=True,
    )
    killer = kill_when_logged(mixed.out, 6, "ray::RayTrainWorker")
    pretrain(mixed)
    assert not killer.is_alive()
    alone = replace(mixed, out=tmp_path / "alone", workers=1)
    pretrain(alone, launch=launch_here)
    for one, two in zip(logged(alone.out), logged(mixed.out), strict=True):
        assert [two.pop(name, None) for name in ("blocks", "block_ids")] == [
            one.pop(name, None) for name in ("blocks", "block_ids")
        ]
        assert two == pytest.approx(one, rel=1e-5)

    streamed = np.tile(stream([text for some in texts for text in some], tokenizer), 3)
    contents = [
        tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)
        for tokens in (prepared, streamed)
    ]
    rows = log.rows(mixed.out)[1:]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        blocks = np.array([contents[source][block] for source, block in row["block_ids"]])
        assert row["blocks"] == f"{digest(blocks.astype(np.int64)) % 2**64:016x}"
    sampler = Sampler(BATCH, (Extent(len(contents[0])), Extent(7, is_stream=True)), (0.75, 0.25), 0)
    for row in rows:
        batch = sampler.step(row["step"] - 1)
        pairs = zip(batch.sources.tolist(), batch.blocks.tolist(), strict=True)
        assert row["block_ids"] == [list(pair) for pair in pairs]
    ids = [tuple(pair) for row in rows for pair in row["block_ids"]]
    assert len(ids) == STEPS * BATCH
    assert len(set(ids)) == len(ids)  # less than an epoch
    assert sum(source for source, _ in ids) == STEPS * BATCH // 4
    assert (mixed.out / "stream-1.jsonl").is_file()


def test_a_missing_shard_is_named_before_anything_starts(
    config: PretrainConfig, tmp_path: Path
) -> None:
    shard = write_shard(tmp_path / "00000.arrow", np.arange(500, dtype=np.uint16) % 60)
    Manifest(["a"], [], "", 0, None, 1, 500, "uint16", [shard]).save(tmp_path)
    (tmp_path / "00000.arrow").unlink()
    with pytest.raises(UserError, match=r"00000\.arrow is missing"):
        pretrain(replace(config, text=str(tmp_path), out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_distillation_of_tied_weights(here: PretrainConfig) -> None:
    """In bfloat16, of a student that was cut out of one teacher, from quite another one: of another
    family, with another padded vocabulary."""
    root = here.out.parent
    taught = replace(
        here,
        model=cut_of(tiny_checkpoints.llama(root / "llama"), root / "cut"),
        teacher=here.out / "model",
        out=root / "distilled",
        precision="bfloat16",
    )
    summary = pretrain(taught, launch=launch_here)
    rows = log.rows(taught.out)
    for row in rows[1:]:
        assert row["loss"] == pytest.approx(
            0.2 * row["ce"] + 0.8 * 0.9**2 * row["divergence"], rel=1e-5
        )
    assert rows[-1]["divergence"] < 0.7 * rows[1]["divergence"]
    assert checkpoint.load(taught.out / "model").tied
    assert summary["settings"]["loss"] == asdict(LossSettings(0.2, 0.8, 0.9, 60))
    student, teacher = checkpoint.load(taught.model), checkpoint.load(taught.teacher)
    assert summary["settings"]["flops_per_token"] == training_flops(student, teacher, LENGTH)


def test_a_finished_run_is_left_alone(
    here: PretrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = json.loads((here.out / "summary.json").read_text())
    before = (here.out / "log.jsonl").stat().st_mtime_ns
    assert pretrain(replace(here, workers=2, checkpoint_every=3, micro_batch=1)) == whole
    assert "finished" in capsys.readouterr().out
    assert (here.out / "log.jsonl").stat().st_mtime_ns == before


def test_another_spelling_or_place_of_the_text_is_the_same_text(
    here: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, validation = Path(here.sources[0]), Path(here.validation_text or "")
    for path in (text, validation):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(text.parent)
    for place in ("", "./", f"{tmp_path}/"):
        same = replace(here, text=f"{place}{text.name}", validation_text=place + validation.name)
        assert pretrain(same) == json.loads((here.out / "summary.json").read_text())


def test_other_settings_are_refused(here: PretrainConfig) -> None:
    with pytest.raises(UserError, match=r"--learning-rate was 0\.01, now it is 0\.02"):
        pretrain(replace(here, learning_rate=0.02))
    other = tiny_checkpoints.text(here.out.parent / "other.npy", seed=5)
    with pytest.raises(UserError, match="the text that --text names has other content"):
        pretrain(replace(here, text=other))


def test_a_loss_that_is_not_finite(here: PretrainConfig) -> None:
    with pytest.raises(UserError, match="the loss is nan at step"):
        pretrain(
            replace(here, out=here.out.with_name("nan"), learning_rate=1e30, gradient_clip=1e30),
            launch=launch_here,
        )


@pytest.mark.slow
def test_an_error_for_the_user_comes_from_a_worker_that_is_not_tried_again(
    config: PretrainConfig, tmp_path: Path
) -> None:
    """On Ray Train, on a node that does not see the run directory."""
    connect()
    starts = []

    def launch(run: TrainingRun) -> None:
        (run.directory / "settings.yaml").rename(tmp_path / "elsewhere")
        starts.append(run)
        launch_on_ray_train(run)

    with pytest.raises(UserError, match=r"^/.*run is not there on \S+: .* all nodes share$"):
        pretrain(replace(config, out=tmp_path / "run", loggers=[]), launch=launch)
    assert len(starts) == 1
    assert not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 0}, "--tokens 0"),
        ({"learning_rate": -1.0}, "--learning-rate -1.0"),
        ({"tokens": 8}, "less than one sequence of 32"),
        ({"sequence_length": 64}, "give 2 to 32"),
        ({"sequence_length": 16}, "more than the sequence length of 16"),
        ({"workers": 7}, "cannot be shared by 7 workers"),
        ({"gpus_per_worker": 2.0}, "--gpus-per-worker 2"),
        ({"warmup": 1.5}, "--warmup 1.5: it is a share of the steps"),
        ({"warmup": 10_000.0}, "--warmup 10000: the run has only"),
        ({"warmup": 0.5, "decay": 0.6}, "at most the 0.5 that --warmup leaves"),
        ({"loggers": ["csv", "csv"]}, "name each once"),
        ({"text": "stdlib:train"}, "no tokenizer"),
        ({"text_weights": [1.0, 2.0]}, "one for each of the 1"),
        ({"shuffle_tokens": 0}, "--shuffle-tokens 0"),
        ({"model": Path("nowhere")}, "no directory"),
        ({"teacher": Path("nowhere")}, "no directory"),
    ],
)
def test_bad_input_leaves_nothing_behind(
    config: PretrainConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pretrain(replace(config, out=tmp_path / "out" / "run", **changes))
    assert not (tmp_path / "out").exists()


def test_another_process_at_work_is_refused(here: PretrainConfig) -> None:
    with exclusive(here.out), pytest.raises(UserError, match="another process is at work in"):
        pretrain(here)


def test_a_directory_of_something_else_is_refused(config: PretrainConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not empty and no run"):
        pretrain(replace(config, out=tmp_path))
    with pytest.raises(UserError, match="cannot write"):
        pretrain(replace(config, out=tmp_path / "file" / "run"))


def test_the_log_is_cut_back_to_a_step_and_to_whole_lines(tmp_path: Path) -> None:
    for step in range(5):
        log.append(tmp_path, {"step": step})
    with (tmp_path / log.LOG).open("a") as file:
        file.write('{"step": 5, "lo')
    log.cut_back(tmp_path, 3)
    assert [row["step"] for row in log.rows(tmp_path)] == [0, 1, 2, 3]
    log.cut_back(tmp_path, -1)
    assert log.rows(tmp_path) == []


@pytest.mark.parametrize("tokens", [10_000, 1_000_000, 40_000_000, 10**10])
def test_default_batches_make_at_least_a_hundred_steps(tokens: int) -> None:
    assert tokens // default_batch_tokens(tokens) >= 100


def test_default_learning_rates_are_pythias() -> None:
    assert default_learning_rate(70_000_000) == pytest.approx(1e-3, rel=0.05)
    assert default_learning_rate(2_800_000_000) == pytest.approx(1.6e-4, rel=0.05)
    assert default_learning_rate(1_000_000) == 2e-3


def test_the_learning_rate_rises_and_falls_to_a_tenth() -> None:
    settings = settings_of(steps=100, learning_rate=1.0, warmup_steps=10)
    rates = [settings.learning_rate_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[55] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert 0.1 < rates[-1] < 0.101
