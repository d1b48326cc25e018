import numpy as np
import pytest
import torch
from litgpt.model import GPT

from evo import checkpoint as checkpoints
from evo.extract import extract
from evo.model import (
    LayerwiseGPT,
    build,
    config_of_widths,
    head_logits,
    hidden_states,
    is_tied,
    tensor_shapes,
    tie,
    widths_of,
)
from evo.subnet import Widths
from tests.cuts import random_subnet
from tests.families import FAMILIES, random_tokens

TOKENS = torch.from_numpy(random_tokens(2, 40)).long()


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_and_head_are_litgpts_forward(family, uniform, teacher):
    loaded = checkpoints.load(teacher(family))
    subnet = random_subnet(
        loaded.architecture.dimensions, np.random.default_rng(2), uniform=uniform
    )
    model = extract(loaded.config, loaded.weights, subnet, tied=loaded.tied)
    with torch.inference_mode():
        assert torch.equal(head_logits(model, hidden_states(model, TOKENS)), model(TOKENS))


def test_softcapped_logits(teacher):
    loaded = checkpoints.load(teacher("llama"))
    model = loaded.model()
    plain = head_logits(model, hidden_states(model, TOKENS))
    model.config.final_logit_softcapping = 0.5
    capped = head_logits(model, hidden_states(model, TOKENS))
    assert torch.equal(capped, model(TOKENS))
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


def test_tying(teacher):
    loaded = checkpoints.load(teacher("llama"))
    model = build(loaded.config, loaded.widths)
    assert not is_tied(model)
    before = sum(parameter.numel() for parameter in model.parameters())
    tie(model)
    assert is_tied(model)
    assert before - sum(parameter.numel() for parameter in model.parameters()) == 112 * 64
