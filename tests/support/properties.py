"""Properties that are tried on a few examples in `make test`, and on many in `make test-all`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from evo.errors import UserError
from tests.support.tried import tried

MANY = 4
"""So many times as many examples are tried in the slow suite."""

FEW = 3
"""The fast suite tries this part of them."""


def examples(number: int) -> Any:
    """A parameter `examples`: a part of so many, and with the mark `slow` many more."""
    many = pytest.param(number * MANY, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])
    return pytest.mark.parametrize("examples", [max(1, number // FEW), many])


def holds(check: Callable[..., None], examples: int, *inputs: SearchStrategy[Any]) -> None:
    """Try a property on so many inputs, the same at every run."""
    configured = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    configured(given(*inputs)(check))()
    tried(inspect.stack()[1].function.removeprefix("test_").replace("_", " "), examples)


def result_or_refusal(action: Callable[[], Any]) -> Any:
    """What an action returns, or the one line with which it refuses its input.

    Whatever else is raised is a defect.
    """
    try:
        return action()
    except UserError as error:
        refusal = error
    assert str(refusal).strip()
    assert "Traceback" not in str(refusal)
    return refusal
