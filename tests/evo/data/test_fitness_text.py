import numpy as np
import pytest

from evo.data.fitness_text import Mixture, load_mixture
from evo.data.token_blocks import Text, load_text
from evo.errors import UserError


@pytest.fixture
def sources(tmp_path):
    rng = np.random.default_rng(0)
    paths = {name: str(tmp_path / f"{name}.npy") for name in ("a", "b", "long")}
    for (name, path), shape in zip(paths.items(), ((30, 8), (10, 8), (4, 9)), strict=True):
        np.save(path, rng.integers(100 if name == "a" else 50, size=shape))
    return paths


def load(source: str, max_tokens: int | None) -> Text:
    return load_text(
        source, tokenizer=None, vocabulary=100, sequence_length=9, max_tokens=max_tokens
    )


def mix(sources, names="ab", weights=None, max_tokens=None) -> Mixture:
    return load_mixture(load, [sources[name] for name in names], weights, max_tokens)


def weighted_mean(mixture: Mixture, losses: np.ndarray) -> float:
    return float((mixture.weights * losses).sum() / mixture.weights.sum())


def test_one_source_is_its_own_text(sources):
    alone, text = mix(sources, "a"), load(sources["a"], None)
    assert np.array_equal(alone.blocks, text.blocks)
    assert (alone.hash, alone.note) == (text.hash, "")
    assert np.array_equal(alone.weights, np.ones(30))
    assert mix(sources, "a", [3.0]).hash == text.hash


def test_the_weighted_mean_is_that_of_the_sources_means(sources):
    losses = np.random.default_rng(1).random(40)
    first, second = losses[:30].mean(), losses[30:].mean()
    both = mix(sources, weights=[7, 3])
    assert np.array_equal(both.blocks[:30], load(sources["a"], None).blocks)
    assert np.array_equal(both.blocks[30:], load(sources["b"], None).blocks)
    assert weighted_mean(both, losses) == pytest.approx(0.7 * first + 0.3 * second, rel=1e-12)
    assert both.weights.mean() == pytest.approx(1)
    assert weighted_mean(mix(sources), losses) == pytest.approx(losses.mean(), rel=1e-12)


def test_the_hash_covers_blocks_and_weights(sources):
    mixtures = [
        mix(sources),
        mix(sources, "ba"),
        mix(sources, weights=[0.7, 0.3]),
        mix(sources, weights=[0.3, 0.7]),
        mix(sources, max_tokens=32),
        mix(sources, "a"),
    ]
    assert len({one.hash for one in mixtures}) == len(mixtures)
    assert mix(sources, weights=[7, 3]).hash == mixtures[2].hash


def test_max_tokens_is_divided_evenly(sources):
    both = mix(sources, max_tokens=50)
    assert [len(text.blocks) for text in both.texts] == [3, 3]
    for text in both.texts:
        assert np.array_equal(text.blocks, load(text.source, 25).blocks)


def test_summary_says_what_each_source_counts(sources):
    summary = mix(sources, weights=[1, 1]).summary()
    assert summary["blocks"] == [40, 8]
    assert [one["share"] for one in summary["sources"]] == [0.5, 0.5]
    assert [one["share"] for one in mix(sources).summary()["sources"]] == [0.75, 0.25]


@pytest.mark.parametrize(
    ("names", "weights", "match"),
    [
        ("aa", None, "each once"),
        ("", None, "at least one"),
        ("ab", [1.0], "one for each of the 2"),
        ("ab", [1.0, 0.0], "above 0"),
        ("ab", [1.0, float("nan")], "above 0"),
        (["a", "long"], None, "one length.*of 8.*of 9"),
    ],
)
def test_what_cannot_be_mixed_is_refused(sources, names, weights, match):
    with pytest.raises(UserError, match=match) as caught:
        mix(sources, names, weights)
    assert "\n" not in str(caught.value)
