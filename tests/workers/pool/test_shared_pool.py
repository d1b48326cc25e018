"""A named pool on a real Ray: several jobs, one teacher, and an end."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import ray

from evo.commands.search.config import SearchConfig
from evo.commands.search.driver import search
from evo.errors import UserError
from evo.model import checkpoint
from tests.support.cuts import random_subnet
from tests.support.families import random_tokens
from tests.workers.pool.test_pool import SHARDS, drain, processes
from workers.pool.queues import Unit
from workers.pool.scoring_worker import ScoringWorker
from workers.pool.shared_pool import SharedPool
from workers.pool.shared_pool_actor import NAMESPACE, SharedPoolActor, Submit
from workers.scoring.scorer import Scorer
from workers.settings import PoolSettings, ScoringSettings

TEXTS = {"one": random_tokens(12, 60), "other": random_tokens(12, 50)[::-1]}
POOL = "shared"

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


@pytest.fixture(scope="module")
def loaded(teacher, tmp_path_factory):
    """A teacher whose files may be taken away."""
    directory = tmp_path_factory.mktemp("teacher") / "qwen2"
    shutil.copytree(teacher("qwen2"), directory)
    return checkpoint.load(directory)


@pytest.fixture(scope="module")
def subnets(loaded):
    rng = np.random.default_rng(1)
    dimensions = loaded.architecture.dimensions
    return [random_subnet(dimensions, rng, uniform=False) for _ in range(10)]


@pytest.fixture(scope="module")
def expected(loaded, subnets):
    """What every candidate scores on every shard of every text."""
    weights = {name: tensor.clone() for name, tensor in loaded.weights.items()}
    found = {}
    for text, blocks in TEXTS.items():
        scorer = Scorer(replace(loaded, weights=weights), blocks, ScoringSettings())
        for subnet in subnets:
            for rows in SHARDS:
                score = scorer.score(subnet.pack(), subnet.id, rows)
                found[text, subnet.id, rows] = (score.nll, score.tokens)
    return found


def enter(loaded, text="one", name=POOL, scoring=None, **settings):
    return SharedPool(
        name, loaded.path, loaded.hash, TEXTS[text], scoring or ScoringSettings(),
        PoolSettings(workers=2), **settings,
    )  # fmt: skip


def units_of(subnets):
    return [
        Unit("a", subnet.id, subnet.pack(), shard, *rows)
        for subnet in subnets
        for shard, rows in enumerate(SHARDS)
    ]


def assert_exact(results, units, expected, text):
    assert Counter(unit for unit, _ in results) == Counter(units)
    for unit, score in results:
        key = (text, unit.candidate, (unit.start, unit.stop))
        assert (score.nll, score.tokens) == expected[key]


def pids():
    return {process.pid for process in processes("ScoringWorker")}


def wait_for_the_end(name, seconds=60):
    deadline = time.monotonic() + seconds
    while any(one["name"] == name for one in ray.util.list_named_actors(all_namespaces=True)):
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def first(loaded, expected):
    """A job that stays, so that there is one pool for the tests of this file."""
    with enter(loaded) as pool:
        deadline = time.monotonic() + 120
        while pool.workers < 2:
            assert time.monotonic() < deadline
            pool.wait(0)
            time.sleep(0.2)
        yield pool


def test_the_second_job_needs_no_checkpoint_and_scores_its_own_text(
    first, loaded, subnets, expected, caplog
):
    units = units_of(subnets)
    first.submit(units)
    assert first.pending() == first.pending("a") == len(units)
    assert_exact(drain(first), units, expected, "one")
    before = pids()
    assert len(before) == 2
    weights = loaded.path / "lit_model.pth"
    weights.rename(weights.with_suffix(".away"))
    try:
        caplog.set_level("INFO", "evo.pool")
        with enter(loaded, "other") as second:
            assert f"sharing the pool {POOL}: teacher loaded, 2 workers" in caplog.messages
            first.submit(units)
            second.submit(units)
            results = first.wait(60), second.wait(60)
            assert_exact(results[1] + drain(second), units, expected, "other")
            assert_exact(results[0] + drain(first), units, expected, "one")
        assert pids() == before
    finally:
        weights.with_suffix(".away").rename(weights)


def test_jobs_share_evenly(first, loaded, subnets):
    units = units_of(subnets)
    with enter(loaded, "other") as second:
        first.submit([*units, *units])
        second.submit(units)
        first.wait(0)
        while second.pending():
            second.wait(60)
        left = first.pending() - len(first.wait(0))
        assert left >= 10  # each got half of what was scored in the meantime
        drain(first)


def test_a_cancelled_candidate_is_not_scored_further(first, subnets, expected):
    units = units_of(subnets)
    first.submit(units)
    for subnet in subnets[3:]:
        first.cancel("a", subnet.id)
    results = drain(first)
    kept = units_of(subnets[:3])
    assert_exact([each for each in results if each[0] in kept], kept, expected, "one")
    assert len(results) < len(units)


def test_a_job_s_error_is_its_own(first, loaded, subnets, expected):
    units = units_of(subnets)
    first.submit(units)
    with enter(loaded, "other") as second:
        second.submit([Unit("a", "short", b"short", 0, 0, 5)])
        with pytest.raises(ValueError, match="no genome"):
            drain(second)
    long = SharedPool(
        POOL, loaded.path, loaded.hash, random_tokens(2, 500), ScoringSettings(), PoolSettings()
    )
    with long:
        long.submit([Unit("a", "x", b"", 0, 0, 1)])
        with pytest.raises(UserError, match="too long") as caught:
            drain(long)
    assert len(str(caught.value).splitlines()) == 1
    assert_exact(drain(first), units, expected, "one")


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"hash": "f00"}, "this search another one \\(f00\\)"),
        ({"scoring": ScoringSettings(micro_batch=3)}, "with micro_batch 8, this search with 3"),
    ],
    ids=["teacher", "scoring"],
)
def test_what_does_not_fit_is_refused_with_the_difference(first, loaded, changes, difference):
    with pytest.raises(UserError, match=difference) as caught:
        SharedPool(
            POOL, loaded.path, changes.get("hash", loaded.hash), TEXTS["one"],
            changes.get("scoring", ScoringSettings()), PoolSettings(),
        )  # fmt: skip
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
def test_a_killed_pool_changes_nothing(first, subnets, expected):
    units = units_of(subnets)
    first.submit(units)
    results = first.wait(60)
    ray.kill(ray.get_actor(POOL, NAMESPACE))
    assert_exact(results + drain(first), units, expected, "one")


@pytest.mark.slow
def test_orders_keep_their_order_when_a_pool_is_killed(first, subnets):
    """A candidate that was cancelled as its generation ended, whose gradient is asked for next."""
    one = subnets[0]
    gates = [Unit("a", one.id, one.pack(), row, row, row + 1, "gates") for row in range(3)]
    first.submit(units_of(subnets))
    first.cancel("a", one.id)
    first.submit(gates)
    ray.kill(ray.get_actor(POOL, NAMESPACE))
    found = [unit for unit, _ in drain(first) if unit.kind == "gates"]
    assert sorted(found, key=lambda unit: unit.shard) == gates


@pytest.mark.slow
def test_silent_jobs_are_forgotten_and_the_pool_ends_with_its_last_user(
    first, loaded, subnets, expected
):
    first.close()
    ray.kill(ray.get_actor(POOL, NAMESPACE))  # two workers are all that there is room for
    name = "short"
    options = {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "max_concurrency": 8}
    scoring, settings = ScoringSettings(), PoolSettings(workers=1)
    host = ray.remote(num_cpus=0, **options)(SharedPoolActor).remote(
        name, str(loaded.path), loaded.hash, scoring, settings, 0.0, ScoringWorker, 8.0
    )
    silent = [Submit(number, unit) for number, unit in enumerate(units_of(subnets * 200))]
    assert ray.get(host.enter.remote("silent", loaded.hash, scoring, TEXTS["one"]))
    ray.get(host.exchange.remote("silent", silent, 0.0))
    units = units_of(subnets)
    with enter(loaded, name=name) as pool:
        pool.submit(units)
        assert_exact(drain(pool), units, expected, "one")
        for _ in range(20):
            pool.wait(0)
            time.sleep(0.5)
        assert ray.get(host.exchange.remote("silent", [], 0.0)) is None
    wait_for_the_end(name)
    deadline = time.monotonic() + 60
    while pids():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_two_searches_one_after_the_other_share_a_pool(loaded, tmp_path):
    tokens = tmp_path / "tokens.npy"
    np.save(tokens, np.random.default_rng(0).integers(0, 100, 16 * 40))

    def config(out, **changes):
        values = {
            "teacher": loaded.path, "text": str(tokens), "bins": ["50%"],
            "spaces": ["coarse-uniform"], "out": tmp_path / out, "population": 6, "generations": 2,
            "elites": 3, "sequence_length": 40, "order": "magnitude", "workers": 2,
            "score_cache": False,
        }  # fmt: skip
        return SearchConfig(**values | changes)

    name = f"jobs-{secrets.token_hex(4)}"
    for seed in (0, 1):
        search(config(f"alone{seed}", seed=seed))
    one = config("shared0")
    command = [
        sys.executable, "-m", "evo", "search", "--teacher", str(one.teacher), "--text", one.text,
        "--bins", *one.bins, "--spaces", *one.spaces, "--out", str(one.out), "--population", "6",
        "--generations", "2", "--elites", "3", "--sequence-length", "40", "--order", "magnitude",
        "--workers", "2", "--no-score-cache", "--pool", name,
    ]  # fmt: skip
    environment = os.environ | {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address, "RAY_AUTH_MODE": "token"
    }  # fmt: skip
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    before = pids()
    assert len(before) == 2
    search(config("shared1", seed=1, pool=name, pool_idle=0))
    assert pids() == before
    for seed in (0, 1):
        frames = [
            pd.read_parquet(next((tmp_path / f"{kind}{seed}").glob("searches/*/history.parquet")))
            for kind in ("alone", "shared")
        ]
        pd.testing.assert_frame_equal(*(frame.drop(columns="seconds") for frame in frames))
        best = [
            json.loads((tmp_path / f"{kind}{seed}" / "summary.json").read_text())["searches"][0]
            for kind in ("alone", "shared")
        ]
        assert best[0]["candidate"] == best[1]["candidate"]
    ray.kill(ray.get_actor(name, NAMESPACE))
