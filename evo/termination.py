"""SIGTERM, by which `scancel`, Kubernetes and `ray job stop` end a command, as an interruption.

A command that is interrupted leaves its files as they are after a kill, from which the same command
goes on; as an exception, the signal lets it end its workers, and say so.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
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
