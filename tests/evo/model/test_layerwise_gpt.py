from dataclasses import replace

import numpy as np
import pytest
import torch
from litgpt.config import Config
from litgpt.model import GPT, do_softcapping

from evo.errors import UserError
from evo.genome.subnet import Widths
from evo.model import checkpoint as checkpoints
from evo.model.extract import extract
from evo.model.layerwise_gpt import (
    LayerwiseGPT,
    architecture_of,
    build,
    config_of_widths,
    head_sizes,
    hidden_states,
    is_tied,
    tensor_shapes,
    tie,
    widths_of,
    with_head_size,
)
from evo.model.nll import logit_tiles
from tests.support.cuts import random_subnet
from tests.support.families import FAMILIES, random_tokens

TOKENS = torch.from_numpy(random_tokens(2, 40)).long()


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_and_head_are_litgpts_forward(family, uniform, teacher):
    loaded = checkpoints.load(teacher(family))
    subnet = random_subnet(
        loaded.architecture.dimensions, np.random.default_rng(2), uniform=uniform
    )
    model = extract(loaded, subnet)
    with torch.inference_mode():
        logits, cap = (
            model.lm_head(hidden_states(model, TOKENS)),
            model.config.final_logit_softcapping,
        )
        logits = logits if cap is None else do_softcapping(logits, cap)
        assert torch.equal(logits, model(TOKENS))


def test_softcapped_logits(teacher):
    loaded = checkpoints.load(teacher("llama"))
    model = loaded.model()
    plain = model(TOKENS)
    model.config.final_logit_softcapping = 0.5
    tiles = [tile for _, tile in logit_tiles(model, hidden_states(model, TOKENS).flatten(0, 1))]
    capped = torch.cat(tiles, 1).view_as(plain)
    torch.testing.assert_close(capped, model(TOKENS))
    torch.testing.assert_close(capped, 0.5 * torch.tanh(plain / 0.5))


@pytest.mark.parametrize("family", FAMILIES)
def test_widths_of_a_network(family, teacher):
    config = checkpoints.load_config(teacher(family))[0]
    uniform = Widths(24, (2, 2), (10, 10))
    layerwise = Widths(24, (1, 4, 2), (10, 96, 1))
    for widths, kind in ((uniform, GPT), (layerwise, LayerwiseGPT)):
        model = build(config, widths)
        assert type(model) is kind
        assert widths_of(model) == widths
        assert model.config.n_layer == len(model.transformer.h) == widths.layers
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        assert tensor_shapes(config, widths) == shapes
        assert model(TOKENS).shape == (2, 40, 112)
    assert (config_of_widths(config, layerwise).n_query_groups) == 4
    assert (config_of_widths(config, layerwise).intermediate_size) == 96


def test_equal_blocks_in_a_layerwise_network_are_litgpts_own(teacher):
    loaded = checkpoints.load(teacher("llama"))
    layerwise = LayerwiseGPT(loaded.config, loaded.widths)
    layerwise.load_state_dict(loaded.weights)
    with torch.inference_mode():
        assert torch.equal(layerwise.eval()(TOKENS), loaded.model()(TOKENS))


ROTARY = {
    "pythia-1b": (list(range(8, 257, 8)), 128),
    "Llama-3.2-1B": (list(range(2, 65, 2)), 16),  # with Llama 3's scaling of low frequencies
    "phi-2": ([5 * n for n in range(1, 17)], 40),
    "Gemma-3-1b-it": (list(range(2, 257, 2)), 128),  # with a second base
}


@pytest.mark.parametrize("name", ROTARY)
def test_the_kept_pairs_turn_as_they_did(name):
    """The rotary table of a smaller head is the leading half-columns of the teacher's."""
    big = Config.from_name(name)
    config = replace(
        big, n_layer=1, n_embd=8, n_head=1, n_query_groups=1, intermediate_size=8,
        padded_vocab_size=8, block_size=4096, head_size=big.head_size,
    )  # fmt: skip
    sizes, size = ROTARY[name]
    assert head_sizes(config) == sizes
    widths = architecture_of(config, tied=False).full_widths
    small = build(config, replace(widths, head_size=size))
    rotary, whole = small.config.rope_n_elem, GPT(config)
    assert small.config.head_size == size
    assert rotary * big.head_size == big.rope_n_elem * size
    half = big.rope_n_elem // 2
    columns = [*range(rotary // 2), *range(half, half + rotary // 2)]
    for table, reference in ((small.cos, whole.cos), (small.sin, whole.sin)):
        torch.testing.assert_close(table, reference[:, columns], rtol=0, atol=1e-3)
    divisor = big.attention_scores_scalar or big.head_size
    assert small.config.attention_scores_scalar == divisor * size / big.head_size


def test_head_sizes_that_cannot_be(teacher):
    config = checkpoints.load_config(teacher("neox-sequential"))[0]
    for size in (2, 5, 16):
        with pytest.raises(UserError, match=r"8 channels, 4 of them rotary.*one of 4, 8$"):
            with_head_size(config, size)
    assert with_head_size(config, 8) == with_head_size(config, None) == config
    yarn = replace(config, rope_adjustments={"factor": 2.0, "beta_fast": 32, "beta_slow": 1})
    assert head_sizes(yarn) == [8]


def test_tying(teacher):
    loaded = checkpoints.load(teacher("llama"))
    model = build(loaded.config, loaded.widths)
    assert not is_tied(model)
    before = sum(parameter.numel() for parameter in model.parameters())
    tie(model)
    assert is_tied(model)
    assert before - sum(parameter.numel() for parameter in model.parameters()) == 112 * 64
