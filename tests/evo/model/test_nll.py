import numpy as np
import pytest
import torch
from litgpt.config import Config
from litgpt.model import GPT
from torch.nn import functional

from evo.model.nll import CPU_TILE, summed_nll

VOCABULARY = 3 * CPU_TILE.vocabulary + 17
BLOCKS = np.random.default_rng(0).integers(VOCABULARY, size=(16, 80), dtype=np.int32)


def network(scale: float = 1, **settings) -> GPT:
    torch.manual_seed(0)
    config = Config(
        name="test",
        n_layer=2,
        n_embd=48,
        n_head=4,
        intermediate_size=96,
        block_size=96,
        vocab_size=VOCABULARY,
        padded_vocab_size=VOCABULARY,
        **settings,
    )
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def reference(model: GPT, blocks: np.ndarray) -> np.ndarray:
    """By litgpt's own forward and torch's cross-entropy, in float64."""
    rows = torch.from_numpy(blocks).long()
    with torch.inference_mode():
        logits = model.double()(rows[:, :-1])
        nll = functional.cross_entropy(logits.mT, rows[:, 1:], reduction="none").sum(1)
    model.float()
    return nll.numpy()


@pytest.mark.parametrize(
    "settings",
    [{}, {"lm_head_bias": True}, {"final_logit_softcapping": 2.0}, {"scale_embeddings": True}],
    ids=str,
)
def test_equals_cross_entropy_in_float64(settings):
    model = network(3, **settings)
    np.testing.assert_allclose(summed_nll(model, BLOCKS), reference(model, BLOCKS), rtol=1e-6)


def test_large_logits_do_not_overflow():
    model = network()
    with torch.no_grad():
        model.lm_head.weight.mul_(1000)
    expected = reference(model, BLOCKS)
    assert expected.mean() / 79 > 200
    np.testing.assert_allclose(summed_nll(model, BLOCKS), expected, rtol=1e-5)


def test_is_the_same_bit_for_bit_for_every_micro_batch():
    model = network(3)
    expected = summed_nll(model, BLOCKS, micro_batch=1)
    assert len(BLOCKS) * (BLOCKS.shape[1] - 1) > 2 * CPU_TILE.positions
    for micro_batch in (2, 3, 5, 7, 16):
        assert np.array_equal(summed_nll(model, BLOCKS, micro_batch=micro_batch), expected)


def test_bfloat16_is_summed_in_float64():
    model = network(3)
    expected = reference(model, BLOCKS)
    np.testing.assert_allclose(summed_nll(model.bfloat16(), BLOCKS), expected, rtol=1e-2)


def test_works_under_autocast():
    model = network(3)
    expected = reference(model, BLOCKS)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_allclose(summed_nll(model, BLOCKS), expected, rtol=1e-2)


def test_a_broken_network_gives_no_number():
    model = network()
    with torch.no_grad():
        model.transformer.ln_f.weight[0] = torch.nan
    assert np.isnan(summed_nll(model, BLOCKS)).all()


def test_one_target_per_row():
    model = network(3)
    rows = BLOCKS[:4, :2]
    np.testing.assert_allclose(
        summed_nll(model, rows, micro_batch=1), reference(model, rows), rtol=1e-6
    )
