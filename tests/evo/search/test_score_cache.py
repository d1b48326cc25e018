"""The cache of scores: what comes back is what was put, whoever wrote it and whatever broke."""

from __future__ import annotations

import math
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest

from evo.errors import UserError
from evo.search import score_cache
from evo.search.score_cache import ScoreCache, score_key
from evo.search.shard_score import ShardScore

Cached = tuple[str, tuple[int, int], ShardScore]

KEY = {"teacher": "0123", "scoring": {"dtype": "float32"}}


@pytest.fixture(autouse=True)
def _refresh_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_cache, "REFRESH_SECONDS", 0.0)


def a_score(number: int, *, divergence: bool = False) -> Cached:
    """Scores whose floats need every digit."""
    rng = np.random.default_rng(number)
    losses = tuple((rng.random(5) * 10.0 ** rng.integers(-20, 20, 5)).tolist())
    score = ShardScore(losses, 5 * 31, 0.0, divergence=losses[::-1] if divergence else None)
    return f"{number:016x}", (4, 9), score


def get(cache: ScoreCache, cached: Cached) -> Cached | None:
    candidate, rows, _ = cached
    score = cache.get(candidate, rows)
    return None if score is None else (candidate, rows, score)


def test_what_was_put_is_got_to_the_last_bit(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, KEY)
    scores = [a_score(number, divergence=number % 2 == 0) for number in range(20)]
    extremes = ("f" * 16, (0, 3), ShardScore((0.1, 5e-324, math.inf), 7, 0.0))
    assert get(cache, extremes) is None
    cache.put([*scores, extremes])
    for reader in (cache, ScoreCache(tmp_path, KEY)):
        for score in (*scores, extremes):
            assert get(reader, score) == score
        assert reader.get(scores[0][0], (4, 8)) is None
        assert reader.get(scores[0][0], (3, 9)) is None
        assert reader.get("e" * 16, (4, 9)) is None


def test_other_keys_know_nothing_of_it(tmp_path: Path) -> None:
    ScoreCache(tmp_path, KEY).put([a_score(1)])
    for other in (KEY | {"teacher": "0124"}, KEY | {"scoring": {"dtype": "bfloat16"}}):
        assert get(ScoreCache(tmp_path, other), a_score(1)) is None
    assert get(ScoreCache(tmp_path, dict(reversed(KEY.items()))), a_score(1)) == a_score(1)


def test_others_are_read_between_generations(tmp_path: Path) -> None:
    one, other = ScoreCache(tmp_path, KEY), ScoreCache(tmp_path, KEY)
    for number in range(3):
        other.put([a_score(number)])
        assert get(one, a_score(number)) is None
        one.refresh()
        assert get(one, a_score(number)) == a_score(number)
    one.put([a_score(2)])  # is there already
    assert len(list(one.directory.glob("*.scores"))) == 1


def test_others_are_not_looked_for_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_cache, "REFRESH_SECONDS", 1e9)
    one, other = ScoreCache(tmp_path, KEY), ScoreCache(tmp_path, KEY)
    other.put([a_score(1)])
    one.refresh()
    assert get(one, a_score(1)) is None


@pytest.mark.parametrize("kept", [0.3, 0.9, 1.0])
def test_a_line_that_is_not_all_there_counts_when_it_is(tmp_path: Path, kept: float) -> None:
    writer = ScoreCache(tmp_path, KEY)
    writer.put([a_score(1), a_score(2)])
    (segment,) = writer.directory.glob("*.scores")
    content = segment.read_bytes()
    torn = content.index(b"\n") + 1 + round(kept * (len(content) - content.index(b"\n") - 2))
    segment.write_bytes(content[:torn])
    reader = ScoreCache(tmp_path, KEY)
    assert get(reader, a_score(1)) == a_score(1)
    assert get(reader, a_score(2)) is None
    segment.write_bytes(content)
    reader.refresh()
    assert get(reader, a_score(2)) == a_score(2)


def test_damage_is_no_score(tmp_path: Path) -> None:
    writer = ScoreCache(tmp_path, KEY)
    writer.put([a_score(number) for number in range(5)])
    (segment,) = writer.directory.glob("*.scores")
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(lines[1][60:62], b"\0\0")
    lines[2] = b"\0" * 40 + b"\n"
    lines[3] = b"\n"
    segment.write_bytes(b"".join(lines))
    reader = ScoreCache(tmp_path, KEY)
    assert [get(reader, a_score(number)) is not None for number in range(5)] == [
        True, False, False, False, True
    ]  # fmt: skip


def _write(root: Path, writer: int) -> None:
    cache = ScoreCache(root, KEY)
    for number in range(50):
        cache.put([a_score(100 * writer + number), a_score(number)])


def test_many_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, writer)) for writer in range(1, 5)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    cache = ScoreCache(tmp_path, KEY)
    for number in (*range(50), *range(100, 150), *range(400, 450)):
        assert get(cache, a_score(number)) == a_score(number)


def test_the_key_names_what_changes_bits() -> None:
    blocks = np.arange(12).reshape(3, 4)
    key = score_key("teacher", blocks, {"dtype": "float32"})
    assert key == score_key("teacher", blocks.astype(np.int32), {"dtype": "float32"})
    others = [
        score_key("another", blocks, {"dtype": "float32"}),
        score_key("teacher", blocks[::-1], {"dtype": "float32"}),
        score_key("teacher", blocks.reshape(4, 3), {"dtype": "float32"}),
        score_key("teacher", blocks, {"dtype": "bfloat16"}),
    ]
    assert all(other != key for other in others)
    assert key["torch"]
    assert key["processor"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        ScoreCache(tmp_path / "file", KEY)


def test_a_disk_that_fills_is_told_once_and_scores_stay_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ScoreCache(tmp_path, KEY)
    cache._own = Path("/dev/full")
    scores = [a_score(1), a_score(2)]
    for score in scores:
        cache.put([score])
    assert all(get(cache, score) == score for score in scores)
    (told,) = [record.getMessage() for record in caplog.records]
    assert "cannot write /dev/full: No space left on device" in told
    shutil.rmtree(tmp_path)
    cache.refresh()
