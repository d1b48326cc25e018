from dataclasses import replace

import numpy as np
import pytest
import torch

from evo.genome.cost import forward_flops
from evo.genome.subnet import Subnet
from evo.model.extract import extract
from evo.model.importance import LAYER_SEQUENCES
from evo.model.layer_sensitivity import LEAST, layer_sensitivity, sensitivity_flops
from evo.model.layerwise_gpt import architecture_of
from evo.model.network import Network
from evo.model.nll import summed_nll
from tests.evo.model.test_importance import CONFIGS, order_by_magnitude, random_network, text


@pytest.mark.parametrize("name", CONFIGS)
def test_as_of_networks_that_were_cut(name):
    """Each layer's growth is that of the standalone network with half of that layer."""
    model = random_network(name)
    tokens, order, config = text(model), order_by_magnitude(model), CONFIGS[name]
    whole = Subnet.full(architecture_of(config, tied=False).dimensions)

    def nll(subnet: Subnet) -> float:
        cut = extract(Network.of(model), subnet)
        return float(summed_nll(cut, tokens).sum()) / (tokens.size - len(tokens))

    expected = []
    for layer in range(4):
        groups, neurons = whole.groups.copy(), whole.neurons.copy()
        groups[layer], neurons[layer] = order.groups[layer] < 2, order.neurons[layer] < 12
        expected.append(nll(replace(whole, groups=groups, neurons=neurons)) - nll(whole))
    assert max(expected) > 0.01
    expected = np.maximum(expected, LEAST * max(expected))
    assert np.allclose(layer_sensitivity(model, order, tokens), expected, atol=1e-5)


@torch.no_grad()
def test_the_layer_that_does_the_work_is_the_most_sensitive():
    model = random_network("neox")
    for index in (0, 1, 3):
        for matrix in (model.transformer.h[index].attn.proj, model.transformer.h[index].mlp.proj):
            for parameter in matrix.parameters():
                parameter *= 1e-4
    sensitivity = layer_sensitivity(model, order_by_magnitude(model), text(model))
    assert sensitivity.argmax() == 2
    assert np.allclose(np.delete(sensitivity, 2), LEAST * sensitivity[2], rtol=0.2)


def test_where_thinning_costs_nothing_layers_are_alike():
    model = random_network("neox")
    tokens = text(model)
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.proj.weight.zero_()
            block.mlp.proj.weight.zero_()
    assert np.array_equal(layer_sensitivity(model, order_by_magnitude(model), tokens), np.ones(4))


def test_the_model_is_left_as_it_was():
    model = random_network("grouped")
    tokens = text(model)
    logits = model(torch.from_numpy(tokens).long())
    layer_sensitivity(model, order_by_magnitude(model), tokens)
    assert torch.equal(model(torch.from_numpy(tokens).long()), logits)
    assert not [one for one in model.modules() if one._forward_pre_hooks]


def test_flops_are_those_of_the_sequences_that_run():
    model = random_network("neox")
    architecture = architecture_of(CONFIGS["neox"], tied=False)
    ran = []
    model.transformer.wte.register_forward_hook(lambda _, inputs, out: ran.append(len(inputs[0])))
    for rows in (3, LAYER_SEQUENCES + 8):
        tokens = text(model, rows=rows, length=8)
        ran.clear()
        layer_sensitivity(model, order_by_magnitude(model), tokens)
        once = forward_flops(architecture, architecture.full_widths, 8)
        assert sensitivity_flops(architecture, rows, 8) == sum(ran) * 8 * once
