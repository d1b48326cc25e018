"""The parts of `benchmarks.pool.scaling` that compute its figures."""

import pytest

from benchmarks.pool.scaling import SETTINGS, UNIT_SEQUENCES, WatchedPool, searches_of, unit_times
from benchmarks.pool.simulated_worker import SEQUENCE_SECONDS, SimulatedWorker
from evo.search.screening.stages import Stages
from workers.pool.queues import Unit

UNIT = Unit("a", "candidate", b"", 0, 0, UNIT_SEQUENCES)
SECONDS = UNIT_SEQUENCES * SEQUENCE_SECONDS


def watched(began, ended, arrivals):
    pool = object.__new__(WatchedPool)  # without workers
    pool.began, pool.ended = began, ended
    pool.arrivals = [(arrival, UNIT) for arrival in arrivals]
    return pool


def test_utilisation_is_the_share_of_time_slept():
    # two workers: one always sleeps, the other one half of the time
    arrivals = [1 + SECONDS, 1 + 2 * SECONDS, 1 + SECONDS]
    assert watched(1, 1 + 2 * SECONDS, arrivals).utilisation(2) == pytest.approx(0.75)


def test_of_what_outlasts_the_end_only_the_part_before_it_counts():
    # cut off in the middle of the second unit; a third one began after it
    arrivals = [SECONDS, 2 * SECONDS, 3 * SECONDS]
    assert watched(0, 1.5 * SECONDS, arrivals).utilisation(1) == pytest.approx(1)


def test_a_simulated_score_is_the_same_for_every_cut_into_units():
    worker = SimulatedWorker()
    whole = worker.score(b"", "candidate", [], 0, 4)
    parts = [worker.score(b"", "candidate", [], start, start + 2) for start in (0, 2)]
    assert whole.nll == parts[0].nll + parts[1].nll
    assert whole.nll != worker.score(b"", "other", [], 0, 4).nll


@pytest.mark.parametrize("name", SETTINGS)
def test_searches_are_as_they_are_said_to_be(name, tmp_path):
    setting = SETTINGS[name]
    sequences = setting.units * setting.unit_sequences
    stages = Stages.of(setting.rungs, sequences, setting.unit_sequences)
    assert len(stages.shards) == setting.units
    assert stages.ends == ((1, 4, 32) if "rungs" in name else (setting.units,))
    searches = searches_of(setting, stages, tmp_path)
    assert len({search.name for search in searches}) == setting.searches
    assert {search.strategy.budget.population for search in searches} == {50}


def test_units_of_larger_candidates_take_longer():
    seconds = [row["unit_seconds"] for row in unit_times()]
    assert seconds == sorted(seconds)
    # two FLOPs per parameter that is no embedding and per token, 16,384 tokens, 40% of 989 TFLOP/s
    assert 0.5 < seconds[0] / (2 * 16384 * 405e6 / 0.4 / 989e12) < 1.2
