import contextlib
import os
import signal
import threading
import time
from collections import Counter

import numpy as np
import psutil
import pytest

from evo.errors import UserError
from evo.model import checkpoint
from evo.model.gate_gradients import gate_gradients
from evo.search.shard_score import ShardScore
from tests.support.cuts import random_subnet
from tests.support.families import random_tokens
from tests.support.simulated import Simulated
from workers.pool.pool import UNITS_IN_FLIGHT, Pool
from workers.pool.quarantine import LONE_DEATHS
from workers.pool.queues import AFFINITY_LEAD, Unit
from workers.pool.stored_teacher import store_teacher
from workers.scoring.scorer import Scorer
from workers.settings import PoolSettings, ScoringSettings

SHARDS = [(0, 5), (5, 10), (10, 12)]
BLOCKS = random_tokens(12, 60)

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


@pytest.fixture(scope="module")
def subnets(teacher):
    rng = np.random.default_rng(1)
    dimensions = checkpoint.load(teacher("qwen2")).architecture.dimensions
    return [random_subnet(dimensions, rng, uniform=False) for _ in range(20)]


@pytest.fixture(scope="module")
def expected(teacher, subnets):
    loaded = checkpoint.load(teacher("qwen2"))
    scorer = Scorer(loaded, BLOCKS, ScoringSettings())
    return {
        (subnet.id, rows): scorer.score(subnet.pack(), subnet.id, rows).nll
        for subnet in subnets
        for rows in SHARDS
    }


def units_of(subnets, searches="a"):
    return [
        Unit(search, subnet.id, subnet.pack(), shard, *rows)
        for search in searches
        for subnet in subnets
        for shard, rows in enumerate(SHARDS)
    ]


@pytest.fixture(scope="module")
def pool(teacher):
    """Two workers for all tests that leave it as they found it: starting some takes seconds."""
    stored = store_teacher(checkpoint.load(teacher("qwen2")))
    with Pool(stored, BLOCKS, ScoringSettings(), PoolSettings(workers=2)) as pool:
        yield pool


def single(teacher, blocks=BLOCKS):
    stored = store_teacher(checkpoint.load(teacher("qwen2")))
    return Pool(stored, blocks, ScoringSettings(), PoolSettings(workers=1))


def drain(pool, seconds=250.0):
    results = []
    deadline = time.monotonic() + seconds
    while pool.pending():
        assert time.monotonic() < deadline
        results += pool.wait(5)
    return results


def assert_exact(results, units, expected):
    """Each unit has one score, which is the scorer's own bit for bit."""
    assert Counter(unit for unit, _ in results) == Counter(units)
    for unit, score in results:
        rows = (unit.start, unit.stop)
        assert (score.nll, score.failure) == (expected[unit.candidate, rows], None)
        assert score.tokens == (rows[1] - rows[0]) * 59


def processes(actor):
    """Ray gives an actor's process the name of its class."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if f"ray::{actor}" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_scores_what_the_scorer_scores(pool, subnets, expected):
    units = units_of(subnets, searches="ab")
    assert pool.wait(0.1) == []
    pool.submit(units)
    assert pool.pending() == 2 * pool.pending("a") == len(units)
    assert_exact(drain(pool), units, expected)
    assert 1 <= pool.workers <= 2
    assert pool.pending("a") == pool.pending("nobody") == 0


def test_gradients_are_units_like_any_other(pool, teacher, subnets):
    loaded, subnet = checkpoint.load(teacher("qwen2")), subnets[0]
    units = [
        Unit("a", subnet.id, subnet.pack(), row, row, row + 1, "gates")
        for row in range(len(BLOCKS))
    ]
    pool.submit(units)
    results = drain(pool)
    assert Counter(unit for unit, _ in results) == Counter(units)
    for unit, found in results:
        expected = gate_gradients(loaded, subnet, BLOCKS[unit.start : unit.stop])
        for name, values in vars(expected).items():
            assert np.array_equal(getattr(found, name), values)


def test_searches_share_evenly(pool, subnets):
    pool.submit(units_of(subnets, searches="a"))
    pool.submit(units_of(subnets[:7], searches="b"))
    results = []
    while len(results) < 30:
        results += pool.wait(60)
    given = Counter(unit.search for unit, _ in results[:30])
    assert abs(given["a"] - given["b"]) <= AFFINITY_LEAD + 2 * UNITS_IN_FLIGHT
    drain(pool)


@pytest.mark.slow
def test_killed_workers_change_nothing(pool, subnets, expected):
    units = units_of(subnets, searches="abcd")
    pool.submit(units)
    results = pool.wait(60)
    killed = 0
    while pool.pending():
        if killed < 3 and len(results) > 20 * killed and (alive := processes("ScoringWorker")):
            alive[0].kill()
            killed += 1
        results += pool.wait(60)
    assert killed == 3
    assert_exact(results, units, expected)


class Poison(str):
    """An id that ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (1,)


@pytest.mark.slow
def test_a_unit_that_kills_its_workers_fails_alone(pool, subnets, expected):
    units = units_of(subnets)
    poison = Unit("a", Poison("poison"), b"", 0, 0, 5)
    pool.submit([*units[:7], poison, *units[7:]])
    results = drain(pool)
    failed = [(unit, score) for unit, score in results if score.failure]
    assert [unit for unit, _ in failed] == [poison]
    assert failed[0][1].failure.startswith(f"killed its worker {LONE_DEATHS} times: ")
    assert failed[0][1].nll == ()
    assert_exact([each for each in results if not each[1].failure], units, expected)


def test_a_cancelled_candidate_is_not_scored_further(pool, subnets, expected):
    units = units_of(subnets, searches="ab")
    pool.submit(units)
    for search in "ab":
        for subnet in subnets[:15]:
            pool.cancel(search, subnet.id)
    left = pool.pending()
    dropped = {subnet.id for subnet in subnets[:15]}
    kept = [unit for unit in units if unit.candidate not in dropped]
    assert len(kept) <= left <= len(kept) + 2 * UNITS_IN_FLIGHT
    results = drain(pool)
    assert len(results) == left
    assert_exact([each for each in results if each[0] in kept], kept, expected)


def test_a_stopped_worker_is_waited_for(pool, subnets, expected):
    units = units_of(subnets)
    pool.submit(units)
    results = pool.wait(60)
    victim = processes("ScoringWorker")[0]
    victim.send_signal(signal.SIGSTOP)
    threading.Timer(3, victim.send_signal, [signal.SIGCONT]).start()
    assert_exact(results + drain(pool), units, expected)


def test_one_worker_scores_the_same_and_ends_with_the_pool(pool, teacher, subnets, expected):
    pool.close()
    pool.close()  # a second time does nothing
    units = units_of(subnets)
    with single(teacher) as lone:
        lone.submit(units)
        assert_exact(drain(lone), units, expected)
        assert lone.workers == len(processes("ScoringWorker")) == 1
    deadline = time.monotonic() + 60
    while processes("ScoringWorker"):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_an_error_of_the_program_is_raised(teacher):
    with single(teacher) as pool:
        pool.submit([Unit("a", "short", b"short", 0, 0, 5)])
        with pytest.raises(ValueError, match="no genome"):
            drain(pool)


def test_bad_text_is_the_users_error(teacher):
    with single(teacher, random_tokens(2, 500)) as pool:
        pool.submit([Unit("a", "x", b"", 0, 0, 1)])
        with pytest.raises(UserError, match="too long") as caught:
            drain(pool)
    assert len(str(caught.value).splitlines()) == 1


def test_an_actor_imports_only_its_own_class(teacher):
    stored = store_teacher(checkpoint.load(teacher("qwen2")))
    settings = PoolSettings(workers=1)
    with Pool(stored, BLOCKS, ScoringSettings(), settings, worker=Simulated) as simulated:
        simulated.submit([Unit("a", "x", b"", 0, 0, 5)])
        score = ShardScore((0.0,), 5, 0.0, "torch: False")
        assert drain(simulated) == [(Unit("a", "x", b"", 0, 0, 5), score)]
