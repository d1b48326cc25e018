import numpy as np
import pytest

from evo.data.fitness_text import Mixture
from evo.data.other_text import ROOM, other_blocks
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


def mixture(*sources: str, max_tokens: int | None = None) -> Mixture:
    return Mixture(tuple(load(source, max_tokens) for source in sources))


def rows(blocks):
    return {tuple(row) for row in blocks.tolist()}


def test_none_of_those_in_use_and_as_many_as_asked_for(paths):
    used = mixture(paths["a"], max_tokens=10 * LENGTH)
    found = other_blocks(load, [paths["a"]], used, 8)
    assert found.shape == (8, LENGTH)
    assert found.dtype == used.blocks.dtype
    assert rows(found) <= rows(load(paths["a"], None).blocks) - rows(used.blocks)
    everything = other_blocks(load, [paths["a"]], used, 64)
    assert rows(everything) == rows(load(paths["a"], None).blocks) - rows(used.blocks)


def test_they_are_spread_over_the_text(paths):
    used = mixture(paths["a"], max_tokens=10 * LENGTH)
    text = load(paths["a"], None).blocks.tolist()
    places = [text.index(row) for row in other_blocks(load, [paths["a"]], used, 4).tolist()]
    assert places == sorted(places)
    assert places[0] < 5
    assert places[-1] > 35


def test_each_source_gives_an_even_part(paths):
    sources = [paths["a"], paths["b"]]
    used = mixture(*sources, max_tokens=9 * LENGTH)
    found = other_blocks(load, sources, used, 10)
    assert rows(found[:5]) <= rows(load(paths["a"], None).blocks)
    assert rows(found[5:]) <= rows(load(paths["b"], None).blocks)


def test_a_text_that_is_used_whole_has_none_left(paths):
    used = mixture(paths["a"])
    assert other_blocks(load, [paths["a"]], used, 8).shape == (0, LENGTH)


def test_sequences_of_another_length_are_refused(paths):
    used = mixture(paths["a"])
    with pytest.raises(UserError, match="has sequences of 8 tokens, and the fitness text of 9"):
        other_blocks(load, [paths["rows"]], used, 8)


def test_no_more_of_a_source_is_read_than_was_used_of_it_and_is_needed(paths):
    asked = {}

    def reads(source: str, max_tokens: int | None) -> Text:
        asked[source] = max_tokens
        return load(source, max_tokens)

    used = mixture(paths["a"], max_tokens=10 * LENGTH)
    other_blocks(reads, [paths["a"], paths["b"]], used, 4)
    assert asked == {paths["a"]: (10 + 2 * ROOM) * LENGTH, paths["b"]: 2 * ROOM * LENGTH}
