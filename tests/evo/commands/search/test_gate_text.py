"""The text of gradients, as a user names it or leaves it to the search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evo.commands.search.config import SearchConfig
from evo.commands.search.driver import search
from evo.commands.search.inputs import read_inputs
from evo.errors import UserError

LENGTH = 40


@pytest.fixture
def settings(tmp_path: Path, teacher: Callable[[str], Path]) -> Callable[..., SearchConfig]:
    """A search on 40 of a text's 60 sequences."""
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 112, 60 * LENGTH))

    def config(**changes: object) -> SearchConfig:
        values: dict = {
            "teacher": teacher("llama-tied"),
            "text": str(tmp_path / "tokens.npy"),
            "bins": ["40%"],
            "spaces": ["coarse-uniform", "fine-layerwise"],
            "out": tmp_path / "run",
            "sequence_length": LENGTH,
            "max_tokens": 40 * LENGTH,
        }
        return SearchConfig(**(values | changes))

    return config


def rows(blocks: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(row) for row in blocks.tolist()}


def test_by_default_it_is_what_the_fitness_text_leaves(settings: Callable) -> None:
    inputs = read_inputs(settings())
    everything = rows(np.load(inputs.config.text[0]).reshape(-1, LENGTH))
    assert inputs.config.gate_text == "rest"
    assert inputs.gate_text is not None
    assert (inputs.gate_text.start, inputs.gate_text.stop, inputs.gate_text.length) == (40, 60, 40)
    assert rows(inputs.pool_blocks[:40]) == rows(inputs.text.blocks)
    assert rows(inputs.pool_blocks[40:]) == everything - rows(inputs.text.blocks)


def test_or_a_source_that_the_user_names(settings: Callable, tmp_path: Path) -> None:
    other = tmp_path / "other.npy"
    np.save(other, np.random.default_rng(1).integers(0, 112, 100 * LENGTH))
    inputs = read_inputs(settings(gate_text=str(other), max_tokens=None))
    assert inputs.config.gate_text == str(other)
    assert inputs.gate_blocks.shape == (64, LENGTH)
    assert rows(inputs.gate_blocks) <= rows(np.load(other).reshape(-1, LENGTH))


@pytest.mark.parametrize(
    "changes",
    [
        {"gate_text": "none"},
        {"max_tokens": None},
        {"spaces": ["coarse-uniform"]},
        {"algorithm": "random"},
        {"fitness": "kl"},
    ],
)
def test_none_where_gradients_are_of_no_use(changes: dict, settings: Callable) -> None:
    inputs = read_inputs(settings(**changes))
    assert (inputs.config.gate_text, inputs.gate_text, inputs.gate_text_hash) == (None, None, None)
    assert np.array_equal(inputs.pool_blocks, inputs.blocks)


def test_none_where_too_little_is_left(
    settings: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    inputs = read_inputs(settings(max_tokens=55 * LENGTH))
    assert (inputs.config.gate_text, inputs.gate_text) == (None, None)
    assert "too little text is left for gradients of gates" in caplog.text


def test_texts_that_cannot_be_used(settings: Callable, tmp_path: Path) -> None:
    few, text = str(tmp_path / "few.npy"), str(tmp_path / "tokens.npy")
    np.save(few, np.arange(7 * LENGTH) % 112)
    for changes, problem in (
        ({"gate_text": "rest", "max_tokens": None}, "--gate-text rest has 0 sequences of 40"),
        ({"gate_text": text, "max_tokens": None}, "has 0 sequences of 40 tokens besides those of"),
        ({"gate_text": few}, "few.npy has 7 sequences of 40 tokens"),
        ({"gate_text": "nowhere.txt"}, "nowhere.txt"),
    ):
        with pytest.raises(UserError, match=problem):
            search(settings(**changes))
        assert not (tmp_path / "run").exists()
