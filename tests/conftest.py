"""What several tests share. Nothing here reaches the network or the user's own cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Both are read when libraries are imported, which is after this file is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks are slowest on contended cores


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tokenised text is cached in a directory of this run."""
    os.environ["EVO_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def fresh_ray() -> None:
    """End the Ray of the files before, with whatever in it still holds its CPUs."""
    import ray

    ray.shutdown()


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
