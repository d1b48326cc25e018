"""What is used of litgpt, imported in less time.

litgpt imports lightning, which imports torchmetrics, which for metrics that nothing here uses
imports transformers' models, and with them scikit-learn: on a laptop core 3 of the 10 seconds
that a process takes to start, and every worker is a process. The classes of transformers that
torchmetrics names are therefore stand-ins until somebody looks into them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

TRANSFORMERS = "transformers"


class _StandIn(type):
    """A class of transformers that is imported when an attribute of it is first asked for."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):  # asked for by who only wants to know what it is
            raise AttributeError(name)
        return getattr(getattr(importlib.import_module(TRANSFORMERS), cls.__name__), name)


def _stand_in(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return _StandIn(name, (), {})


@contextmanager
def _transformers_later() -> Iterator[None]:
    """While this is open, `from transformers import X` costs nothing and gives a stand-in."""
    if TRANSFORMERS in sys.modules or "litgpt" in sys.modules:
        yield
        return
    later = ModuleType(TRANSFORMERS)
    later.__getattr__ = _stand_in  # type: ignore[method-assign]
    sys.modules[TRANSFORMERS] = later
    try:
        yield
    finally:
        del sys.modules[TRANSFORMERS]


with _transformers_later():
    from litgpt.config import Config
    from litgpt.model import GPT, Block, do_softcapping
    from litgpt.scripts import convert_hf_checkpoint
    from litgpt.utils import save_config

__all__ = ["GPT", "Block", "Config", "convert_hf_checkpoint", "do_softcapping", "save_config"]
