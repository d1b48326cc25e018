"""Sources that fail for a while: tried again after growing waits, then given up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from evo.errors import first_line

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

WAITS: tuple[float, ...] = (1, 4, 16, 64, 256)
"""Seconds before each further try."""

Failed = Callable[[Exception, Iterator[float]], None]
"""Is told why a try failed, and what waits are left: returns for another try, or raises."""


def attempt(action: Callable[[], Result], failed: Failed) -> Result:
    """What an action returns, once it does not fail."""
    waits = iter(WAITS)
    while True:
        try:
            return action()
        except Exception as error:
            failed(error, waits)


def resumed(read: Callable[[], Iterator[Result]], failed: Failed) -> Iterator[Result]:
    """What is read, in its order; after a failure, `read` begins again, and what it gave before is
    passed over: slow, but exact."""
    seen = 0
    waits = iter(WAITS)
    while True:
        try:
            for item in islice(read(), seen, None):
                yield item
                seen += 1
                waits = iter(WAITS)
            return
        except Exception as error:
            failed(error, waits)


def pause(name: str, error: Exception, waits: Iterator[float]) -> bool:
    """Wait before the next try, and say why; False, at once, where there have been enough."""
    seconds = next(waits, None)
    if seconds is None:
        return False
    logger.warning("%s: %s; trying again in %g s", name, first_line(error), seconds)
    time.sleep(seconds)
    return True
