"""A cache changes nothing but times."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from evo.errors import UserError
from evo.storage.cache import _warn_once, cached
from evo.storage.checksums import Summed, checksum, damaged
from evo.storage.files import cache_directory


@pytest.fixture(autouse=True)
def _told_anew():
    _warn_once.cache_clear()


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Takes a value through the cache; how often it was made is the length of its list."""
    monkeypatch.setenv("EVO_CACHE", str(tmp_path / "cache"))
    times = []

    def make():
        times.append(1)
        return np.arange(100)

    def take():
        value = cached(
            "some/value.npy", make, lambda array, path: np.save(path.open("wb"), array), np.load
        )
        assert np.array_equal(value, np.arange(100))

    return take, times


def test_a_value_is_made_once(made):
    take, times = made
    take()
    take()
    assert len(times) == 1


def test_what_is_damaged_is_made_anew(made, caplog):
    take, times = made
    take()
    path = cache_directory() / "some" / "value.npy"
    whole = path.read_bytes()
    for count, content in enumerate((b"", whole[:-9], whole[:-1] + b"x", b"text"), 2):
        path.write_bytes(content)
        take()
        assert len(times) == count
        assert path.read_bytes() == whole
    (path.parent / "value.npy.checksum").unlink()
    take()
    assert len(times) == 6
    assert caplog.text.count("made anew") == 5


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/evo", "/dev/full", "x" * 300])
def test_a_place_that_cannot_be_written_is_told_once_and_done_without(
    place, made, tmp_path, monkeypatch, caplog
):
    take, times = made
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVO_CACHE", str(tmp_path / place))
    take()
    take()
    assert len(times) == 2
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("the cache is not used: ")
    assert told.endswith("EVO_CACHE can name a directory for it")


def test_a_user_without_a_home_has_no_cache(made, tmp_path, monkeypatch, caplog):
    """As containers of OpenShift run: an arbitrary user id, which no file knows."""
    take, times = made
    for name in ("EVO_CACHE", "HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    with pytest.raises(UserError, match="no home directory"):
        cache_directory()
    take()
    take()
    assert len(times) == 2
    (tmp_path / "a").write_text("one")
    summed = Summed("a", 3, checksum(tmp_path / "a"))
    assert damaged(tmp_path, [summed]) == {}
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


def test_evo_cache_names_the_place(monkeypatch):
    monkeypatch.setenv("EVO_CACHE", "/somewhere")
    assert cache_directory() == Path("/somewhere")
    monkeypatch.setenv("EVO_CACHE", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_directory() == Path("/home/someone/.cache/evo")
