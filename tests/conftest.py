"""What several tests share. Nothing here reaches the network or the user's own cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parent.parent

# Both are read when libraries are imported, which is after this file is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks are slowest on contended cores
# Hundreds of processes import our modules: they need not compile them, each one anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tokenised text is cached in a directory of this run."""
    os.environ["EVO_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a Ray come first, so that a Ray of a test's own does not end it between."""

    def order(item: pytest.Item) -> tuple[bool, bool]:
        shares = "shared_ray" in getattr(item, "fixturenames", ())
        return not shares, item.get_closest_marker("ray") is None

    items.sort(key=order)


class Files(LoadScopeScheduling):
    """Gives whole files to the process that is ready first, those that use Ray to a single one.

    They share a Ray, and must not compete with others of their kind for its CPUs. The files that
    start clusters are a second such group, as the first alone would take longer than all others.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _group(file) or file


@cache
def _group(file: str) -> str | None:
    text = (ROOT / file).read_text()
    return next((mark for mark in ("own_cluster", "ray") if f"pytest.mark.{mark}" in text), None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Files:
    return Files(config, log)


def _ray_runs() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


@pytest.fixture(autouse=True)
def _ray_is_announced(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that starts Ray has the mark `ray`."""
    before = _ray_runs()
    yield
    if request.node.get_closest_marker("ray") is None:
        assert before or not _ray_runs(), "mark this test with pytest.mark.ray"


@pytest.fixture(scope="module")
def shared_ray() -> None:
    """A Ray of two CPUs that files share."""
    from tests.support.rays import share_ray

    share_ray()


@pytest.fixture(scope="session")
def hf_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The Hugging Face checkpoint of a family of tests/support/families.py."""
    from tests.support.families import FAMILIES, write

    root = tmp_path_factory.mktemp("hf")

    def checkpoint(family: str) -> Path:
        if not (root / family).is_dir():
            write(root / family, *FAMILIES[family])
        return root / family

    return checkpoint


@pytest.fixture(scope="session")
def teacher(
    tmp_path_factory: pytest.TempPathFactory, hf_checkpoint: Callable[[str], Path]
) -> Callable[[str], Path]:
    """The teacher directory that `evo import` makes of it."""
    from evo.huggingface.config import ImportConfig
    from evo.huggingface.import_checkpoint import import_checkpoint

    root = tmp_path_factory.mktemp("teachers")

    def directory(family: str) -> Path:
        if not (root / family).is_dir():
            import_checkpoint(ImportConfig(str(hf_checkpoint(family)), root / family))
        return root / family

    return directory
