import numpy as np
import pytest

from evo.genome import SPACES
from evo.genome.space import Space
from tests.support.architectures import GROUPED, any_cost, random_order


@pytest.mark.parametrize("name", SPACES)
def test_crossover_takes_from_both_and_from_nobody_else(name):
    space = Space(name, GROUPED, random_order(GROUPED.dimensions), any_cost(GROUPED))
    rng = np.random.default_rng(5)
    first, second = space.sample(rng), space.sample(rng)
    seen: set[tuple[bool, ...]] = set()
    for _ in range(40):
        child = space.crossover(first, second, rng)
        picks = []
        for field in ("layers", "channels"):
            one, two, own = (getattr(x, field) for x in (first, second, child))
            assert own.sum() in (one.sum(), two.sum())
            picks.append(bool(own.sum() == one.sum()))
            assert not (own & ~(one | two)).any()
            if own.sum() >= (one & two).sum():
                assert not (one & two & ~own).any()
        for field in ("groups", "neurons"):
            for layer in np.flatnonzero(child.layers):
                one, two, own = (getattr(x, field)[layer] for x in (first, second, child))
                assert own.sum() in (one.sum(), two.sum())
                assert not (own & ~(one | two)).any()
        seen.add(tuple(picks))
    assert len(seen) > 1
