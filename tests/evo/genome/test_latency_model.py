import dataclasses
from itertools import product

import numpy as np
import pytest
from litgpt import Config

from evo.genome.bins import parse_bin
from evo.genome.cost import Cost, LatencyUnitCosts
from evo.genome.latency_model import Latencies, calibration_shapes, widths_of_shape
from evo.genome.subnet import Widths
from evo.model.layerwise_gpt import build
from evo.model.nll import summed_nll
from tests.support.architectures import NEOX
from workers.scoring.decode_latency import decode_latency

PRICES = LatencyUnitCosts(3 * 10**11, 10**9, 5 * 10**10, 10**8, 10**7, 0, 10**6)
COST = Cost("latency", 20, PRICES)


def measured(noise: float) -> Latencies:
    """As if measured, with a relative error."""
    rng, shapes = np.random.default_rng(0), calibration_shapes(NEOX)
    exact = [COST.of(NEOX, widths_of_shape(shape)) for shape in shapes]
    return Latencies(
        20, "cpu", shapes, tuple(round(one * (1 + noise * rng.normal())) for one in exact)
    )


def test_planted_prices_are_found():
    found = measured(0).unit_costs(NEOX)
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(PRICES), abs=10)


def test_prices_are_never_negative_and_predict_noisy_measurements():
    prices = measured(0.05).unit_costs(NEOX)
    assert min(dataclasses.astuple(prices)) >= 0
    noisy = Cost("latency", 20, prices)
    for shape in calibration_shapes(NEOX):
        widths = widths_of_shape(shape)
        assert noisy.of(NEOX, widths) == pytest.approx(COST.of(NEOX, widths), rel=0.1)


def best_of_all_subsets(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Least squares without negative coefficients: plain least squares on what is not zero."""
    best, least = np.zeros(a.shape[1]), float(b @ b)
    for chosen in product((False, True), repeat=a.shape[1]):
        part = np.linalg.lstsq(a[:, chosen], b, rcond=None)[0]
        error = float(((a[:, chosen] @ part - b) ** 2).sum())
        if (part >= 0).all() and error < least:
            best, least = np.zeros(a.shape[1]), error
            best[np.array(chosen)] = part
    return best


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2, 0.5])
def test_prices_are_the_best_of_all_subsets_of_prices(noise):
    latencies = measured(noise)
    layers, channels, groups, neurons = np.array(latencies.shapes, float).T
    heads = layers * groups * NEOX.head_size
    columns = [layers**0, channels, layers, heads, heads * channels, layers * neurons,
               layers * neurons * channels]  # fmt: skip
    a = np.stack(columns, 1) / np.array(latencies.measured, float)[:, None]
    scale = np.linalg.norm(a, axis=0)
    expected = best_of_all_subsets(a / scale, np.ones(len(a))) / scale
    assert (expected == 0).any()
    found = dataclasses.astuple(latencies.unit_costs(NEOX))
    assert found == pytest.approx(expected, rel=1e-9, abs=0.6)  # they are whole numbers


def test_what_was_measured_survives_the_disk(tmp_path):
    one = measured(0.05)
    one.save(tmp_path / "latency.json")
    assert Latencies.load(tmp_path / "latency.json") == one


def test_bins_of_latency():
    for text, low, high in (
        ("1.5ms-2ms", 1.5e12, 2e12),
        ("1.5-2MS", 1.5e12, 2e12),
        ("800us", 0.95 * 8e11, 1.05 * 8e11),
        ("2s", 1.9e15, 2.1e15),
        ("40%", 0.38 * 7e12, 0.42 * 7e12),
    ):
        bin = parse_bin(text, 7 * 10**12, lambda _: None, COST)
        assert (bin.low, bin.high) == (round(low), round(high))
    assert str(bin) == "40% (2.66 to 2.94 ms to decode a token at length 20)"


CONFIG = Config(
    n_layer=8, n_embd=64, n_head=4, n_query_groups=2, intermediate_size=96, padded_vocab_size=64,
    block_size=32, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", bias=False,
)  # fmt: skip


@pytest.mark.parametrize("widths", [Widths(48, (2, 2), (96, 96)), Widths(48, (1, 2), (96, 40))])
def test_a_model_that_was_timed_scores_as_before(widths):
    model = build(CONFIG, widths).eval()
    blocks = np.random.default_rng(0).integers(0, 64, (4, 33)).astype(np.int32)
    before = summed_nll(model, blocks, micro_batch=2)
    decode_latency(model, 20)
    assert (summed_nll(model, blocks, micro_batch=2) == before).all()
