"""`evo search` on a real Ray: the same history whatever happens, and winners that hold."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import ray
import torch
import yaml
from litgpt import GPT, Config

from evo.commands.search.config import SearchConfig
from evo.commands.search.driver import search
from evo.data.token_shards import spaced
from evo.errors import UserError
from evo.genome import SPACES
from evo.genome.cost import SECOND, Cost, forward_flops
from evo.genome.latency_model import Latencies
from evo.genome.ranking import Order
from evo.genome.subnet import Widths
from evo.model import checkpoint
from evo.model.layer_sensitivity import layer_sensitivity
from evo.model.nll import summed_nll
from evo.search.history.history import History
from evo.search.screening.stages import Stages, spread
from evo.search.winner import extract_candidate
from evo.storage.run_directory import FILE as SETTINGS
from evo.storage.run_directory import read_settings

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]

LENGTH = 40
FEWER: dict = {"bins": ["40%"], "spaces": ["coarse-uniform", "fine-layerwise"]}


@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory, teacher: Callable[[str], Path]
) -> Callable[..., SearchConfig]:
    """A search of the grouped-query teacher with tied embeddings, in two bins and four spaces."""
    tokens = tmp_path_factory.mktemp("text") / "tokens.npy"
    np.save(tokens, np.random.default_rng(0).integers(0, 112, 60 * LENGTH))

    def config(out: Path, **changes: object) -> SearchConfig:
        values: dict = {
            "teacher": teacher("llama-tied"),
            "text": str(tokens),
            "bins": ["40%", "60%"],
            "spaces": list(SPACES),
            "out": out,
            "population": 6,
            "generations": 3,
            "sequence_length": LENGTH,
            "max_tokens": 40 * LENGTH,
            "shard_tokens": 16 * LENGTH,
            "workers": 2,
            "score_cache": False,
        }
        return SearchConfig(**(values | changes))

    return config


def fitness_text(config: SearchConfig) -> np.ndarray:
    """Every third sequence is left for gradients of gates."""
    blocks = np.load(config.text).reshape(-1, LENGTH)
    assert config.max_tokens is not None
    return blocks[spaced(len(blocks), LENGTH, config.max_tokens)]


def histories(run: Path) -> dict[str, pd.DataFrame]:
    """Every search's history without the times."""
    return {
        path.parent.name: pd.read_parquet(path).drop(columns="seconds")
        for path in sorted(run.glob("searches/*/history.parquet"))
    }


def assert_same(run: Path, reference: Path) -> None:
    """Every search of a run is as it is among the reference's, which may have more searches."""
    one, other = histories(run), histories(reference)
    assert len(one) == len(FEWER["spaces"])
    for name, frame in one.items():
        pd.testing.assert_frame_equal(frame, other[name], check_exact=True)


@pytest.fixture(scope="module")
def reference(
    shared_ray: None, tmp_path_factory: pytest.TempPathFactory, settings: Callable
) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("reference") / "run"
    search(settings(out))
    return out


def test_every_candidate_is_new_in_its_bin_and_counted_as_numel_does(reference: Path) -> None:
    summary = json.loads((reference / "summary.json").read_text())
    assert len(summary["searches"]) == 8
    for one in summary["searches"]:
        history = pd.read_parquet(reference / "searches" / one["name"] / "history.parquet")
        assert len(history) == one["evaluations"] == 24
        assert history.candidate.is_unique
        assert history.params.between(one["low"], one["high"]).all()
        assert set(history.status) <= {"full", "screened"}
        assert one["scored_in_full"] == (history.status == "full").sum() > 0
        assert (history.tokens[history.status == "full"] == 40 * (LENGTH - 1)).all()
        assert one["tokens_scored"] == history.tokens.sum()


def test_half_of_the_offspring_in_fine_spaces_are_made_by_gradients(reference: Path) -> None:
    assert read_settings(reference)["gate_text"] == "rest"
    summary = json.loads((reference / "summary.json").read_text())
    for one in summary["searches"]:
        history = pd.read_parquet(reference / "searches" / one["name"] / "history.parquet")
        gated = history[history.operator == "gates"]
        if one["space"].startswith("coarse"):
            assert gated.empty
            continue
        assert gated.generation.value_counts().to_dict() == {1: 3, 2: 3, 3: 3}
        state = json.loads((reference / "searches" / one["name"] / "state.json").read_text())
        scored = one["flops"] - state["gates"]["flops"]
        assert 0 < scored < one["flops"]


def test_layer_wise_searches_know_what_thinning_a_layer_costs(
    reference: Path, settings: Callable
) -> None:
    order, config = Order.load(reference / "order.npz"), settings(reference)
    model = checkpoint.load(config.teacher).model()
    tokens = fitness_text(config)
    assert order.sensitivity is not None
    assert np.allclose(order.sensitivity, layer_sensitivity(model, order, tokens))


@pytest.mark.parametrize(
    ("cost", "bin"), [("flops", "40%"), pytest.param("kv-cache", "2KB-4KB", marks=pytest.mark.slow)]
)
def test_bins_over_other_costs_within_limits(
    cost: str, bin: str, shared_ray: None, tmp_path: Path, settings: Callable
) -> None:
    limits = {"multiple_of": ["neurons=8", "channels=4"], "floors": ["layers=2"]}
    changes: dict = {**FEWER, **limits, "bins": [bin], "generations": 1, "cost_length": 20}
    summary = search(settings(tmp_path / "run", cost=cost, **changes))
    architecture = checkpoint.load(settings(tmp_path).teacher).architecture
    for one in summary["searches"]:
        assert (one["cost"], one["cost_length"]) == (cost, 20)
        for row in History(tmp_path / "run" / "searches" / one["name"]).rows():
            assert one["low"] <= row.cost <= one["high"]
            widths = Widths(row.channels, row.groups, row.neurons)
            if cost == "flops":
                assert row.cost == forward_flops(architecture, widths, 20)
            else:  # keys and values of every group, two bytes each
                assert row.cost == sum(row.groups) * architecture.head_size * 20 * 2 * 2
            assert row.layers >= 2
            assert row.channels % 4 == 0
            assert all(neurons % 8 == 0 for neurons in row.neurons)
    unit = {"flops": "FLOPs per token", "kv-cache": "bytes of KV cache"}[cost]
    with pytest.raises(UserError, match=f"no subnet .* within --multiple-of .* {unit} at length"):
        search(settings(tmp_path / "other", cost=cost, **changes | {"bins": ["1%"]}))


@pytest.mark.slow
def test_bins_over_measured_latency(shared_ray: None, tmp_path: Path, settings: Callable) -> None:
    out = tmp_path / "run"
    changes: dict = {"bins": ["1us-10s"], "spaces": ["coarse-layerwise"], "generations": 1}
    summary = search(settings(out, cost="latency", cost_length=20, population=4, **changes))
    architecture = checkpoint.load(settings(tmp_path).teacher).architecture
    latencies = Latencies.load(out / "latency.json")
    cost = Cost("latency", 20, latencies.unit_costs(architecture))
    rows = History(out / "searches" / summary["searches"][0]["name"]).rows()
    assert len(rows) == 8
    for row in rows:
        assert row.status in ("full", "screened")
        assert 10**9 <= row.cost <= 10 * SECOND
        predicted = cost.of(architecture, Widths(row.channels, row.groups, row.neurons))
        assert row.cost != predicted  # but measured
    with pytest.raises(UserError, match="--cost-length 50 is beyond the sequences of 40 tokens"):
        search(settings(tmp_path / "other", cost="latency", cost_length=50, **changes))


def test_settings_that_cannot_be(settings: Callable, tmp_path: Path) -> None:
    for changes, problem in (
        ({"cost": "memory"}, "unknown cost 'memory': give one of parameters, flops, kv-cache"),
        ({"cost": "latency", "fitness": "magnitude"}, "--cost latency is measured where"),
        ({"cost_length": 20}, "--cost-length 20: give at least 1, and with --cost flops, kv"),
        ({"cost": "flops", "cost_length": 0}, "--cost-length 0: give at least 1"),
        ({"floors": ["heads=2"]}, "--floors heads=2: give DIMENSION=NUMBER"),
        ({"gate_text": "rest", "spaces": ["coarse-uniform"]}, "--gate-text rest makes"),
        ({"gate_text": "rest", "fitness": "kl"}, "--gate-text rest makes offspring of"),
        ({"proposals": 0}, "--proposals 0 cannot be: give at least 1"),
        ({"proposals": 4, "algorithm": "local"}, "--algorithm local has none: leave one"),
        ({"proposals": 4, "fitness": "magnitude"}, "--fitness magnitude scores nothing"),
        ({"niches": "layers", "algorithm": "random"}, "--algorithm random keeps none"),
    ):
        with pytest.raises(UserError, match=problem):
            settings(tmp_path / "run", **changes)


def test_extracted_candidates_have_the_parameters_and_nll_of_their_row(
    reference: Path, tmp_path: Path, settings: Callable
) -> None:
    blocks = fitness_text(settings(tmp_path))
    stages = Stages.of(settings(tmp_path).rung_settings, 40, 1)
    for name in ("coarse-layerwise@40%", "fine-uniform@60%"):
        history = pd.read_parquet(reference / "searches" / name / "history.parquet")
        for row in history.itertuples():
            if row.Index % 8:
                continue
            out = tmp_path / name / row.candidate
            assert extract_candidate(reference, name, row.candidate, out).nll == row.nll
            model = checkpoint.load(out).model()
            assert sum(parameter.numel() for parameter in model.parameters()) == row.params
            turned = stages.rotated(row.generation).sequences(40)
            scored = blocks[spread(40)[turned[: row.tokens // (LENGTH - 1)]]]
            assert summed_nll(model, scored).sum() / row.tokens == pytest.approx(row.nll, rel=1e-6)


def test_winners_are_standalone_checkpoints_with_their_nll(
    reference: Path, settings: Callable, tmp_path: Path
) -> None:
    blocks = fitness_text(settings(tmp_path))
    for one in json.loads((reference / "summary.json").read_text())["searches"]:
        loaded = checkpoint.load(Path(one["winner"]))
        assert loaded.tied
        model = loaded.model()
        nll = summed_nll(model, blocks).sum() / (40 * (LENGTH - 1))
        assert nll == pytest.approx(one["nll"], rel=1e-4)
        origin = json.loads((Path(one["winner"]) / "subnet.json").read_text())
        assert (origin["space"], origin["bin"]) == (one["space"], one["bin"])
        if one["space"].endswith("uniform"):
            plain = GPT(Config.from_file(Path(one["winner"]) / "model_config.yaml"))
            weights = torch.load(Path(one["winner"]) / "lit_model.pth", weights_only=True)
            plain.load_state_dict(weights, strict=True)
            tokens = torch.from_numpy(blocks[:2]).long()
            torch.testing.assert_close(plain(tokens), model(tokens), rtol=0, atol=0)


def test_one_worker_gives_the_same_history_as_two(
    reference: Path, settings: Callable, tmp_path: Path
) -> None:
    search(settings(tmp_path / "run", workers=1, **FEWER))
    assert_same(tmp_path / "run", reference)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bins_and_spaces_that_are_added_search_as_if_asked_for_at_once(
    reference: Path, settings: Callable, tmp_path: Path
) -> None:
    """With gradients of gates and the sensitivity of layers, which the first space does without."""
    out = tmp_path / "run"
    search(settings(out, bins=["40%"], spaces=["coarse-uniform"]))
    assert read_settings(out)["gate_text"] is None
    search(settings(out))
    one, other = histories(out), histories(reference)
    assert list(one) == list(other)
    for name, frame in one.items():
        pd.testing.assert_frame_equal(frame, other[name], check_exact=True)


def worker_processes() -> list[int]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it may have ended a moment ago
            if "ScoringWorker" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


@pytest.mark.slow
def test_killed_workers_change_nothing(reference: Path, settings: Callable, tmp_path: Path) -> None:
    killed: list[int] = []
    journals = tmp_path / "run" / "searches"

    def kill() -> None:
        while len(killed) < 3:
            busy = any(path.stat().st_size for path in journals.glob("*/journal-*.jsonl"))
            workers = [pid for pid in worker_processes() if pid not in killed]
            if workers and busy:
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])
            time.sleep(0.1)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    search(settings(tmp_path / "run", **FEWER))
    assert len(killed) == 3
    assert_same(tmp_path / "run", reference)


def test_a_finished_run_is_left_alone(reference: Path, settings: Callable) -> None:
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*") if path.is_file()}
    summary = search(settings(reference, workers=1))
    assert len(summary["searches"]) == 8
    after = {path: path.stat().st_mtime_ns for path in reference.rglob("*") if path.is_file()}
    assert after == before


def test_a_run_that_was_begun_before_there_were_these_settings_is_the_same_run(
    reference: Path, settings: Callable, tmp_path: Path
) -> None:
    """It has no niches, and takes proposals as they come."""
    shutil.copytree(reference, tmp_path / "run")
    recorded = read_settings(tmp_path / "run")
    assert recorded["proposals"] == 16
    del recorded["niches"], recorded["proposals"]
    (tmp_path / "run" / SETTINGS).write_text(
        yaml.safe_dump(recorded | {"out": str(tmp_path / "run")})
    )
    assert len(search(settings(tmp_path / "run"))["searches"]) == 8
    with pytest.raises(UserError, match="--proposals was not given, now it is 16"):
        search(settings(tmp_path / "run", proposals=16))


def test_another_spelling_or_place_of_the_text_is_the_same_text(
    reference: Path, settings: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path(settings(reference).text)
    shutil.copy(text, tmp_path / "moved.npy")
    monkeypatch.chdir(text.parent)
    spellings = f"./{text.name}", text.name, f"../{text.parent.name}/{text.name}"
    for same in (*spellings, str(tmp_path / "moved.npy")):
        assert len(search(settings(reference, text=same))["searches"]) == 8
        assert len(search(settings(reference, text=[same], order_text=None))["searches"]) == 8
    np.save(tmp_path / "other.npy", np.load(text)[::-1])
    with pytest.raises(UserError, match="the text that --text names has other content"):
        search(settings(reference, text=str(tmp_path / "other.npy")))
    with pytest.raises(UserError, match="the text that --order-text names has other content"):
        search(settings(reference, order_text=str(tmp_path / "other.npy")))


def test_other_settings_are_refused_with_the_difference(
    reference: Path, settings: Callable
) -> None:
    with pytest.raises(UserError, match="population was 6, now it is 7"):
        search(settings(reference, population=7))


def test_killed_and_started_again_ends_with_the_same_history(
    reference: Path, settings: Callable, tmp_path: Path
) -> None:
    config = settings(tmp_path / "run", **FEWER)
    command = [
        sys.executable, "-m", "evo", "search", "--teacher", str(config.teacher), "--text",
        config.text, "--bins", *config.bins, "--spaces", *config.spaces, "--out", str(config.out),
        "--population", "6", "--generations", "3", "--sequence-length", str(LENGTH),
        "--max-tokens", str(config.max_tokens), "--shard-tokens", str(config.shard_tokens),
        "--workers", "2", "--no-score-cache",
    ]  # fmt: skip
    address = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "RAY_AUTH_MODE": "token"}
    environment = os.environ | address
    first = subprocess.Popen(
        command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    states = config.out / "searches"
    while first.poll() is None and len(list(states.glob("*/state.json"))) < 2:
        time.sleep(0.05)
    while first.poll() is None and not any(
        path.stat().st_size for path in states.glob("*/journal-*.jsonl")
    ):
        time.sleep(0.01)
    assert first.poll() is None, "it ended before it could be killed"
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    done = sum(len(path.read_bytes().split(b"\n")) - 1 for path in states.glob("*/journal-*.jsonl"))
    assert done > 0
    assert not (config.out / "summary.json").exists()
    second = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert second.returncode == 0, second.stderr
    assert_same(config.out, reference)


@pytest.mark.slow
def test_what_an_earlier_run_scored_comes_from_the_cache(
    reference: Path, settings: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVO_CACHE", str(tmp_path / "cache"))
    for name in ("first", "second"):
        search(settings(tmp_path / name, score_cache=True, **FEWER))
        assert_same(tmp_path / name, reference)
    first, second = (
        json.loads((tmp_path / name / "summary.json").read_text())["searches"]
        for name in ("first", "second")
    )
    for before, after in zip(first, second, strict=True):
        assert after["cached_units"] >= after["evaluations"] > before["cached_units"]
        assert after["tokens_scored"] == before["tokens_scored"]


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_changes_nothing(
    reference: Path, settings: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVO_CACHE", str(tmp_path / "file"))
    search(settings(tmp_path / "run", **FEWER, score_cache=True))
    assert_same(tmp_path / "run", reference)


def test_a_start_from_another_run(reference: Path, settings: Callable, tmp_path: Path) -> None:
    changes = {"start_from": reference, "seed": 1, "generations": 1, **FEWER}
    summary = search(settings(tmp_path / "run", **changes))
    assert sorted(one["name"] for one in summary["searches"]) == sorted(histories(tmp_path / "run"))
    for one in summary["searches"]:
        history = pd.read_parquet(tmp_path / "run" / "searches" / one["name"] / "history.parquet")
        first = history[history.generation == 0]
        assert (first.operator == "start").sum() == 3
        assert set(first.operator) == {"start", "sample"}
        assert history.params.between(one["low"], one["high"]).all()
        before = pd.read_parquet(reference / "searches" / one["name"] / "history.parquet")
        best = before[before.status == "full"].sort_values(["fitness", "candidate"]).iloc[0]
        assert best.candidate in set(first[first.operator == "start"].candidate)
        # Each generation groups the sequences anew, which may change the last bits of a sum.
        assert one["fitness"] <= best.fitness * (1 + 1e-8)
    taken = (tmp_path / "run" / "start.parquet").read_bytes()
    assert search(settings(tmp_path / "run", **changes)) == summary
    assert (tmp_path / "run" / "start.parquet").read_bytes() == taken
    with pytest.raises(UserError, match="--start-from was"):
        search(settings(tmp_path / "run", **{**changes, "start_from": None}))


def test_the_summary_has_the_best_of_each_bin_and_the_front(reference: Path) -> None:
    summary = json.loads((reference / "summary.json").read_text())
    searches = {one["name"]: one for one in summary["searches"]}
    for bin in ("40%", "60%"):
        rivals = [one["fitness"] for one in searches.values() if one["bin"] == bin]
        (best,) = [one for one in summary["best"] if one["search"].endswith(f"@{bin}")]
        assert best["fitness"] == min(rivals)
        assert searches[best["search"]]["candidate"] == best["candidate"]
    rows = pd.concat(pd.read_parquet(path) for path in reference.glob("searches/*/*.parquet"))
    rows = rows[rows.status == "full"]
    costs = [one["params"] for one in summary["front"]]
    assert costs == sorted(set(costs))
    for one in summary["front"]:
        assert not ((rows.params <= one["params"]) & (rows.fitness < one["fitness"])).any()
        assert not ((rows.params < one["params"]) & (rows.fitness <= one["fitness"])).any()
    assert rows.fitness.min() == summary["front"][-1]["fitness"]
