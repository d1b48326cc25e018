import numpy as np
import pytest
import torch
from litgpt.config import Config
from litgpt.model import GPT

from evo.errors import UserError
from evo.model.kl import Divergence, summed_nll_and_divergence, teacher_states
from evo.model.nll import CPU_TILE, summed_nll

REAL = 2 * CPU_TILE.vocabulary + 300
PADDED = REAL + 100
BLOCKS = np.random.default_rng(0).integers(REAL, size=(11, 60), dtype=np.int32)


def network(seed: int, channels: int, **settings) -> GPT:
    torch.manual_seed(seed)
    config = Config(
        name="test",
        n_layer=2,
        n_embd=channels,
        n_head=4,
        intermediate_size=96,
        block_size=64,
        vocab_size=REAL,
        padded_vocab_size=PADDED,
        **settings,
    )
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def log_softmax(model: GPT, size: int) -> torch.Tensor:
    """Of litgpt's own logits, in float64, shape [N, T-1, size]."""
    with torch.inference_mode():
        logits = model.double()(torch.from_numpy(BLOCKS[:, :-1]).long())[..., :size]
    model.float()
    return logits.log_softmax(-1)


def reference(teacher: GPT, model: GPT, top_k: int | None) -> np.ndarray:
    theirs, own = log_softmax(teacher, REAL), log_softmax(model, REAL)
    if top_k is not None:
        chosen = theirs.argsort(dim=-1, descending=True)[..., :top_k]
        rest = torch.ones_like(theirs).scatter(-1, chosen, 0).bool()

        def bucketed(log_probability: torch.Tensor) -> torch.Tensor:
            others = log_probability.masked_fill(~rest, -torch.inf).logsumexp(-1, keepdim=True)
            return torch.cat([log_probability.gather(-1, chosen), others], -1)

        theirs, own = bucketed(theirs), bucketed(own)
    return (theirs.exp() * (theirs - own)).sum((1, 2)).numpy()


@pytest.mark.parametrize("settings", [{}, {"final_logit_softcapping": 2.0, "lm_head_bias": True}])
@pytest.mark.parametrize("top_k", [None, 512, CPU_TILE.vocabulary + 77])
def test_equals_log_softmax_of_litgpts_logits(top_k, settings):
    teacher, model = network(0, 64, **settings), network(1, 48, **settings)
    divergence = Divergence(REAL, top_k)
    states = teacher_states(teacher, BLOCKS, divergence, 4)
    nll, distance = summed_nll_and_divergence(
        model, teacher, BLOCKS, states, divergence, micro_batch=3
    )
    np.testing.assert_allclose(distance, reference(teacher, model, top_k), rtol=2e-5)
    np.testing.assert_allclose(nll, summed_nll(model, BLOCKS), rtol=1e-6)


def test_a_teacher_does_not_diverge_from_itself():
    teacher = network(0, 64)
    for top_k in (None, 512):
        divergence = Divergence(REAL, top_k)
        states = teacher_states(teacher, BLOCKS, divergence, 4)
        _, distance = summed_nll_and_divergence(teacher, teacher, BLOCKS, states, divergence)
        np.testing.assert_allclose(distance / 59, 0, atol=2e-6)


def test_over_the_top_k_is_never_more_than_over_all():
    teacher, model = network(0, 64), network(1, 48)
    distances = []
    for top_k in (512, 1500, REAL, REAL - 1):
        divergence = Divergence(REAL, top_k)
        states = teacher_states(teacher, BLOCKS, divergence, 4)
        found = summed_nll_and_divergence(model, teacher, BLOCKS, states, divergence)
        distances.append(found[1].sum())
    assert distances[0] < distances[1] < distances[2]
    assert distances[3] == pytest.approx(distances[2], rel=1e-6)


@pytest.mark.parametrize("top_k", [None, 600])
def test_micro_batches_do_not_matter(top_k):
    teacher, model = network(0, 64), network(1, 48)
    divergence = Divergence(REAL, top_k)
    found = [
        summed_nll_and_divergence(
            model,
            teacher,
            BLOCKS,
            teacher_states(teacher, BLOCKS, divergence, size),
            divergence,
            micro_batch=12 - size,
        )
        for size in (1, 4, 11)
    ]
    for nll, distance in found[1:]:
        assert np.array_equal(nll, found[0][0])
        assert np.array_equal(distance, found[0][1])


def test_bfloat16(recwarn):
    teacher, model = network(0, 64), network(1, 48)
    expected = reference(teacher, model, None)
    divergence = Divergence(REAL)
    states = teacher_states(teacher.bfloat16(), BLOCKS, divergence, 4)
    assert states.values.dtype == torch.bfloat16
    _, distance = summed_nll_and_divergence(model.bfloat16(), teacher, BLOCKS, states, divergence)
    np.testing.assert_allclose(distance, expected, rtol=2e-2)


def test_too_few_tokens_to_rank_by_are_refused():
    assert Divergence(REAL, REAL).top_k is None
    assert Divergence(300, 300).top_k is None
    for vocabulary, top_k in ((REAL, 511), (300, 299), (REAL, 0)):
        with pytest.raises(UserError, match="--kl-top-k"):
            Divergence(vocabulary, top_k)
