"""The learning rate of a wsd schedule, and what a run's settings record of it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.support.alone import settings_of


def rates(steps: int) -> list[float]:
    settings = settings_of(
        steps=steps, learning_rate=1.0, warmup_steps=10, schedule="wsd", decay_steps=steps // 5
    )
    return [settings.learning_rate_at(step) for step in range(steps)]


def test_a_run_up_to_its_decay_is_the_beginning_of_every_longer_one() -> None:
    short, long = rates(100), rates(400)
    assert short[:80] == long[:80]
    assert short[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert set(short[9:81]) == {1.0}


def test_it_then_falls_evenly_to_a_tenth() -> None:
    falling = rates(100)[80:]
    drops = [before - after for before, after in pairwise(falling)]
    assert drops == pytest.approx([0.9 / 20] * 19)
    assert falling[-1] == pytest.approx(0.1 + 0.9 / 20)


def test_a_cosine_is_recorded_as_before_there_was_another_schedule() -> None:
    recorded = settings_of(schedule="wsd").recorded
    assert {"schedule", "decay_steps"} <= set(recorded)
    assert not {"schedule", "decay_steps"} & set(settings_of().recorded)
