import numpy as np
import pytest

from evo.data.other_text import other_blocks
from evo.data.token_blocks import Text, load_text
from evo.errors import UserError

LENGTH = 9


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    found = {}
    for name, shape in (("a", 40 * LENGTH), ("b", 30 * LENGTH), ("rows", (5, 8))):
        found[name] = str(tmp_path / f"{name}.npy")
        np.save(found[name], rng.integers(100, size=shape))
    return found


def load(source: str, max_tokens: int | None) -> Text:
    return load_text(
        source, tokenizer=None, vocabulary=100, sequence_length=LENGTH, max_tokens=max_tokens
    )


def rows(blocks):
    return {tuple(row) for row in blocks.tolist()}


def test_none_of_those_in_use_and_as_many_as_asked_for(paths):
    used = load(paths["a"], 10 * LENGTH).blocks
    found = other_blocks(load, [paths["a"]], used, 8)
    assert found.shape == (8, LENGTH)
    assert found.dtype == used.dtype
    assert rows(found) <= rows(load(paths["a"], None).blocks) - rows(used)
    everything = other_blocks(load, [paths["a"]], used, 64)
    assert rows(everything) == rows(load(paths["a"], None).blocks) - rows(used)


def test_they_are_spread_over_the_text(paths):
    used = load(paths["a"], 10 * LENGTH).blocks
    text = load(paths["a"], None).blocks.tolist()
    places = [text.index(row) for row in other_blocks(load, [paths["a"]], used, 4).tolist()]
    assert places == sorted(places)
    assert places[0] < 5
    assert places[-1] > 35


def test_each_source_gives_an_even_part(paths):
    sources = [paths["a"], paths["b"]]
    used = np.concatenate([load(source, 9 * LENGTH).blocks for source in sources])
    found = other_blocks(load, sources, used, 10)
    assert rows(found[:5]) <= rows(load(paths["a"], None).blocks)
    assert rows(found[5:]) <= rows(load(paths["b"], None).blocks)


def test_a_text_that_is_used_whole_has_none_left(paths):
    used = load(paths["a"], None).blocks
    assert other_blocks(load, [paths["a"]], used, 8).shape == (0, LENGTH)


def test_sequences_of_another_length_are_refused(paths):
    used = load(paths["a"], None).blocks
    with pytest.raises(UserError, match="has sequences of 8 tokens, and the fitness text of 9"):
        other_blocks(load, [paths["rows"]], used, 8)
