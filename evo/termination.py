"""SIGTERM, by which `scancel`, Kubernetes and `ray job stop` end a command, as an interruption.

A command that is interrupted leaves its files as they are after a kill, from which the same command
goes on; as an exception, the signal lets it end its workers, and say so. Work that takes long to do
again, such as training since the last checkpoint, is given some grace to write it down first.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_received = threading.Event()


def heed_sigterm() -> None:
    """Raise `KeyboardInterrupt` in the main thread at a SIGTERM; a second one is ignored."""
    _received.clear()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _raise)


def was_terminated() -> bool:
    """Whether a SIGTERM has come. Ray Train raises an interruption of its own in place of ours."""
    return _received.is_set()


@contextmanager
def grace(seconds: float, ask: Callable[[], None]) -> Iterator[None]:
    """Let work come to an end of its own at a SIGTERM: it is asked to, and interrupted later.

    Args:
        seconds: from the signal to the interruption; with 0, it comes at once.
        ask: asks the work to end; called from the signal's handler.
    """
    if seconds <= 0 or threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _received.set()
        signal.setitimer(signal.ITIMER_REAL, seconds)
        ask()

    before = signal.signal(signal.SIGTERM, asked), signal.signal(signal.SIGALRM, _raise)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before[1])
        if not was_terminated():
            signal.signal(signal.SIGTERM, before[0])


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handler of SIGTERM back that something replaces meanwhile, as `ray.init` does."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and callable(before):
            signal.signal(signal.SIGTERM, before)


def _raise(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so that what is ending can end
    _received.set()
    raise KeyboardInterrupt
