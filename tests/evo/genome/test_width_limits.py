from dataclasses import replace

import pytest

from evo.errors import UserError
from evo.genome.subnet import Dimensions
from evo.genome.width_limits import NO_LIMITS, WidthGrid, WidthLimits
from tests.support.architectures import NEOX


def test_without_limits_a_head_of_channels_is_the_least():
    assert NO_LIMITS.grid(NEOX) == WidthGrid(range(1, 5), range(8, 33), range(1, 5), range(1, 41))
    assert NO_LIMITS.grid(replace(NEOX, head_size=4)).channels == range(4, 33)
    assert NO_LIMITS.grid(replace(NEOX, head_size=64)).channels == range(32, 33)


def test_multiples_and_floors():
    limits = WidthLimits.parse(["channels=12", "neurons=16"], ["layers=3", "neurons=17"])
    assert limits == WidthLimits(Dimensions(1, 12, 1, 16), Dimensions(3, 1, 1, 17))
    grid = limits.grid(NEOX)
    assert list(grid.layers) == [3, 4]
    assert list(grid.channels) == [12, 24]  # 32, the teacher's, is no multiple
    assert list(grid.groups) == [1, 2, 3, 4]
    assert list(grid.neurons) == [32]
    assert WidthLimits.parse([], []) == NO_LIMITS


@pytest.mark.parametrize("text", ["heads=2", "channels", "channels=", "channels=0", "channels=-1",
                                  "channels=1.5", "=64", "64"])  # fmt: skip
def test_what_is_no_limit(text):
    with pytest.raises(UserError, match=f"--multiple-of {text}: give DIMENSION=NUMBER"):
        WidthLimits.parse([text], [])
    with pytest.raises(UserError, match=f"--floors {text}: give DIMENSION=NUMBER"):
        WidthLimits.parse([], [text])


@pytest.mark.parametrize(
    ("multiple_of", "floors"), [(["channels=64"], []), ([], ["layers=5"]),
                                (["neurons=25"], ["neurons=30"])])  # fmt: skip
def test_nothing_left(multiple_of, floors):
    with pytest.raises(UserError, match=r"the teacher has .*: lower --multiple-of or --floors"):
        WidthLimits.parse(multiple_of, floors).grid(NEOX)
