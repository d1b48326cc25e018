"""`evo search` with each fitness: what is minimised is what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from evo.commands.search.claim import claim
from evo.commands.search.config import SearchConfig
from evo.commands.search.driver import search
from evo.commands.search.inputs import read_inputs
from evo.errors import UserError
from evo.flags import parse_config
from evo.genome.importance_proxy import Importance, Proxy
from evo.genome.subnet import Subnet
from evo.model import checkpoint
from evo.model.checkpoint import Checkpoint
from evo.model.extract import extract
from evo.storage.run_directory import settle
from training.evaluation.evaluate import evaluate

LENGTH, VOCABULARY = 40, 112

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


@pytest.fixture(scope="module")
def path(teacher: Callable[[str], Path]) -> Path:
    return teacher("llama-tied")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of 12 and of 4 sequences, the second without half of the tokens."""
    root, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    for name, shape in (("a", (12, LENGTH)), ("b", (4, LENGTH))):
        np.save(root / f"{name}.npy", rng.integers(VOCABULARY if name == "a" else 56, size=shape))
    return [str(root / "a.npy"), str(root / "b.npy")]


@pytest.fixture
def run(path: Path, texts: list[str], tmp_path: Path) -> Callable[..., tuple[dict, pd.DataFrame]]:
    """Search; the search's part of the summary, and its history."""

    def run(**changes: object) -> tuple[dict, pd.DataFrame]:
        values: dict = {
            "teacher": path,
            "text": texts[0],
            "bins": ["50%"],
            "spaces": ["fine-layerwise"],
            "out": tmp_path / "run",
            "population": 4,
            "generations": 1,
            "rungs": ["full"],
            "sequence_length": LENGTH,
            "shard_tokens": 5 * LENGTH,
            "workers": 1,
            "order": "index",
            "score_cache": False,
        }
        summary = search(SearchConfig(**(values | changes)))
        history = tmp_path / "run" / "searches" / "fine-layerwise@50%" / "history.parquet"
        return summary["searches"][0], pd.read_parquet(history)

    return run


def log_softmax(loaded: Checkpoint, genome: bytes | None, blocks: np.ndarray) -> torch.Tensor:
    """Of the teacher or of a candidate, in float64, from litgpt's own logits."""
    model = loaded.model()
    if genome is not None:
        subnet = Subnet.unpack(genome, loaded.architecture.dimensions)
        model = extract(loaded, subnet)
    with torch.inference_mode():
        return model.double()(torch.from_numpy(blocks[:, :-1]).long()).log_softmax(-1)


def test_kl_to_the_teacher(run: Callable, path: Path, texts: list[str]) -> None:
    one, history = run(fitness="kl")
    loaded, blocks = checkpoint.load(path), np.load(texts[0])
    teacher = log_softmax(loaded, None, blocks)
    targets = torch.from_numpy(blocks[:, 1:]).long()
    for row in history.itertuples():
        own = log_softmax(loaded, row.genome, blocks)
        kl = (teacher.exp() * (teacher - own)).sum(-1).mean().item()
        assert row.fitness == pytest.approx(kl, rel=1e-5)
        assert row.nll == pytest.approx(-own.gather(-1, targets[..., None]).mean().item(), rel=1e-6)
        assert row.perplexity == pytest.approx(math.exp(row.nll))
    best = history.sort_values("fitness").iloc[0]
    assert (one["candidate"], one["fitness"], one["nll"]) == (
        best.candidate,
        best.fitness,
        best.nll,
    )


@pytest.mark.slow
@pytest.mark.parametrize("fitness", ["magnitude", "activation"])
def test_proxies_score_nothing_but_the_winner(
    run: Callable, path: Path, texts: list[str], tmp_path: Path, fitness: str
) -> None:
    one, history = run(fitness=fitness, generations=3)
    loaded = checkpoint.load(path)
    importance = Importance.load(tmp_path / "run" / "importance.npz")
    proxy = Proxy(importance, loaded.config.head_size)
    dimensions = loaded.architecture.dimensions
    for row in history.itertuples():
        assert row.fitness == proxy.fitness(Subnet.unpack(row.genome, dimensions))
        assert row.status == "full"
        assert math.isnan(row.nll)
        assert math.isnan(row.perplexity)
    assert len(history) == one["evaluations"] == 16
    assert one["tokens_scored"] == history.tokens.sum() == 0
    best = history.sort_values(["fitness", "candidate"]).iloc[0]
    assert (one["candidate"], one["fitness"]) == (best.candidate, best.fitness)
    found = evaluate(Path(one["winner"]), texts[0], sequence_length=LENGTH, device="cpu")
    assert one["nll"] == pytest.approx(found["nll"], rel=1e-5)
    summary = (tmp_path / "run" / "summary.json").read_text()
    assert "NaN" not in summary
    assert json.loads(summary)["fitness"] == fitness


def test_a_mixed_text_is_the_weighted_mean_of_what_eval_says(
    run: Callable, texts: list[str], tmp_path: Path
) -> None:
    one, history = run(text=texts, text_weights=[7.0, 3.0], rungs=["1/4"], population=8)
    first, second = (
        evaluate(Path(one["winner"]), text, sequence_length=LENGTH, device="cpu")["nll"]
        for text in texts
    )
    assert abs(first - second) > 0.01
    assert one["fitness"] == pytest.approx(0.7 * first + 0.3 * second, rel=1e-5)
    assert one["fitness"] == one["nll"]
    assert set(history.status) == {"full", "screened"}


def test_flags_and_settings_that_make_no_sense(path: Path, texts: list[str]) -> None:
    required = ["--teacher", str(path), "--bins", "50%", "--out", "run", "--text"]

    def parsed(*arguments: str) -> SearchConfig:
        return parse_config("evo search", SearchConfig, [*required, *arguments])

    assert parsed("a").sources == ["a"]
    mixed = parsed("a", "b", "--text-weights", "0.7", "0.3")
    assert (mixed.sources, mixed.text_weights) == (["a", "b"], [0.7, 0.3])
    for arguments, match in (
        (["a", "--kl-top-k", "512"], "--fitness kl only"),
        (["a", "a"], "each once"),
        (["a", "b", "--text-weights", "1"], "one for each"),
    ):
        with pytest.raises(UserError, match=match):
            parsed(*arguments)


def test_a_micro_batch_once_found_is_a_setting_of_the_run(
    path: Path, texts: list[str], tmp_path: Path
) -> None:
    """Needs no GPU: it is looked for only when the run goes on from here."""
    config = SearchConfig(path, texts[0], ["50%"], tmp_path / "run", gpus_per_worker=0.5)
    first = read_inputs(config)
    assert (claim(first), first.scoring.micro_batch) == (False, None)
    assert first.scoring.device_share == 0.5
    settle(config.out, "micro_batch", 16)
    again = read_inputs(config)
    assert (claim(again), again.scoring.micro_batch) == (True, 16)
    with pytest.raises(UserError, match="--micro-batch was 16"):
        claim(read_inputs(replace(config, micro_batch=8)))
