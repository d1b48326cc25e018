"""What is used of litgpt, imported without the packages that its networks do not need.

The package litgpt imports lightning, torchmetrics, scipy and torch._dynamo, which takes a process
several times as long as torch itself, and every worker is a process. Its modules of networks are
therefore imported alone: the package's own code runs when a name of it is first asked for, and
stand-ins take the place of what only litgpt's commands call.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

PACKAGE = "litgpt"

STAND_INS = {
    "litgpt.utils": ("extend_checkpoint_dir", "incremental_save", "lazy_load", "save_config"),
    "lightning.fabric.utilities.load": ("_NotYetLoadedTensor",),
}
"""Modules that litgpt's networks import but do not use, with the names that they import."""


class _LazyPackage(ModuleType):
    """A package whose submodules can be imported; its own code runs at the first other name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.__spec__ is None or self.__spec__.loader is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        try:
            self.__spec__.loader.exec_module(self)
        except BaseException:
            self.__class__ = _LazyPackage
            raise
        return getattr(self, name)


class _StandIn(type):
    """The class of stand-ins: a call imports the genuine function or class, and calls it."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(cls.__module__), cls.__name__)(*args, **kwargs)


@contextmanager
def _networks_alone() -> Iterator[None]:
    """While this is open, litgpt's modules of networks are imported without other packages."""
    if PACKAGE in sys.modules:
        yield
        return
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    package = importlib.util.module_from_spec(spec)
    package.__class__ = _LazyPackage
    sys.modules[PACKAGE] = package
    absent = [name for name in STAND_INS if name not in sys.modules]
    for module in absent:
        sys.modules[module] = ModuleType(module)
        for name in STAND_INS[module]:
            setattr(sys.modules[module], name, _StandIn(name, (), {"__module__": module}))
    try:
        yield
    finally:
        for module in absent:
            del sys.modules[module]


with _networks_alone():
    from litgpt.config import Config
    from litgpt.model import GPT, Block, do_softcapping
    from litgpt.scripts import convert_hf_checkpoint


def save_config(config: Config, directory: Path) -> None:
    """Write a `Config` as litgpt's own function does, which lies in a module with lightning."""
    with open(directory / "model_config.yaml", "w", encoding="utf-8") as file:
        yaml.dump(asdict(config), file)


__all__ = ["GPT", "Block", "Config", "convert_hf_checkpoint", "do_softcapping", "save_config"]
