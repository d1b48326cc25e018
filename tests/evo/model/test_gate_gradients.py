from dataclasses import replace

import numpy as np
import pytest
import torch
from litgpt.config import Config
from litgpt.model import GPT
from torch.nn import functional

from evo.genome.subnet import Subnet
from evo.model import checkpoint
from evo.model.extract import extract
from evo.model.gate_gradients import Gates, gate_gradients, gated
from evo.model.layerwise_gpt import head_sizes, hidden_states
from evo.model.network import Network
from evo.model.nll import summed_nll
from tests.support.cuts import random_subnet
from tests.support.families import FAMILIES, random_tokens

BLOCKS = random_tokens(3, 20)
GEMMA = Config(
    name="Gemma-2-tiny",
    n_layer=3,
    n_embd=32,
    n_head=4,
    n_query_groups=2,
    head_size=8,
    intermediate_size=48,
    block_size=20,
    vocab_size=112,
    padded_vocab_size=112,
    rotary_percentage=1.0,
    parallel_residual=False,
    bias=False,
    norm_class_name="RMSNorm",
    mlp_class_name="GemmaMLP",
    scale_embeddings=True,
    post_attention_norm=True,
    post_mlp_norm=True,
    attention_logit_softcapping=50.0,
    final_logit_softcapping=5.0,
)


WINDOWS = replace(
    GEMMA,
    name="Gemma-3-tiny",
    norm_qk=True,
    attention_logit_softcapping=None,
    sliding_window_size=5,
    sliding_window_indices=[1, 0, 1],
    rope_local_base_freq=100,
    rope_indices=[1, 0, 1],
)


@pytest.fixture(params=[*FAMILIES, GEMMA, WINDOWS], ids=lambda p: getattr(p, "name", p))
def network(request, teacher) -> Network:
    if not isinstance(request.param, Config):
        return checkpoint.load(teacher(request.param))
    torch.manual_seed(0)
    model = GPT(request.param).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Network.of(model)


def a_subnet(network: Network, seed: int = 0) -> Subnet:
    """Some of everything; with a channel or two, a norm says nothing."""
    dimensions, rng = network.architecture.dimensions, np.random.default_rng(seed)
    while True:
        subnet = random_subnet(dimensions, rng, uniform=False)
        if dimensions.channels / 4 < subnet.channels.sum() < dimensions.channels:
            return subnet


@torch.no_grad()
def mean_nll(model: GPT) -> float:
    rows = torch.from_numpy(BLOCKS).long()
    logits = model.lm_head(hidden_states(model, rows[:, :-1]))
    cap = model.config.final_logit_softcapping
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return functional.cross_entropy(logits.mT, rows[:, 1:]).item()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_gated_teacher_is_the_network_that_is_cut(network, seed):
    subnet = a_subnet(network, seed)
    whole = summed_nll(extract(network, subnet), BLOCKS).sum() / (BLOCKS.size - len(BLOCKS))
    model = gated(network, subnet, Gates(subnet, "cpu"), BLOCKS.shape[1])
    assert mean_nll(model) == pytest.approx(whole, rel=1e-5)


def test_of_smaller_heads_too(teacher):
    network = checkpoint.load(teacher("llama"))
    smaller = head_sizes(network.config)[0]
    subnet = replace(a_subnet(network), head_size=smaller)
    whole = summed_nll(extract(network, subnet), BLOCKS).sum() / (BLOCKS.size - len(BLOCKS))
    model = gated(network, subnet, Gates(subnet, "cpu"), BLOCKS.shape[1])
    assert mean_nll(model) == pytest.approx(whole, rel=1e-5)
    assert model.lm_head.weight.data_ptr() == network.weights["lm_head.weight"].data_ptr()


def test_gradients_are_finite_differences(network):
    """Of gates of kept and of dropped units, in float64."""
    subnet, how = a_subnet(network), {"dtype": torch.float64}
    found = gate_gradients(network, subnet, BLOCKS, **how)
    gates = Gates(subnet, "cpu")
    model = gated(network, subnet, gates, BLOCKS.shape[1], **how)
    rng, step, checked = np.random.default_rng(2), 2**-12, 0
    kept = np.flatnonzero(subnet.layers)
    for name in ("channels", "groups", "neurons"):
        values = getattr(gates, name).data
        expected = getattr(found, name)
        gradient = expected if name == "channels" else expected[kept]
        rounding = 1e-3 * float(np.abs(gradient).max())  # litgpt's RMSNorm rounds to float32
        for gate in (0.0, 1.0):
            places = np.argwhere(values.numpy() == gate)
            for place in map(tuple, rng.permutation(places)[:4]):
                around = []
                for moved in (gate + step, gate - step):
                    values[place] = moved
                    around.append(mean_nll(model))
                values[place] = gate
                difference = (around[0] - around[1]) / (2 * step)
                assert gradient[place] == pytest.approx(difference, rel=5e-3, abs=rounding)
                checked += 1
    assert checked > 16
    dropped = ~subnet.layers
    assert not found.groups[dropped].any()
    assert not found.neurons[dropped].any()


def test_says_which_neurons_are_worth_keeping(teacher):
    """To first order: against networks that are cut with each neuron dropped, or added."""
    network = checkpoint.load(teacher("neox"))
    subnet = a_subnet(network, 3)
    layer = int(subnet.layers.argmax())
    base = summed_nll(extract(network, subnet), BLOCKS).sum()
    changes = []
    for neuron in range(96):
        neurons = subnet.neurons.copy()
        neurons[layer, neuron] ^= True
        changed = summed_nll(extract(network, replace(subnet, neurons=neurons)), BLOCKS).sum()
        changes.append((changed - base) * (1 if neurons[layer, neuron] else -1))
    gradient = gate_gradients(network, subnet, BLOCKS).neurons[layer]
    assert np.corrcoef(gradient, changes)[0, 1] > 0.9


def test_in_bfloat16_they_are_nearly_the_same(network):
    subnet = a_subnet(network)
    exact = gate_gradients(network, subnet, BLOCKS)
    rough = gate_gradients(network, subnet, BLOCKS, dtype=torch.bfloat16)
    for name, values in vars(exact).items():
        assert np.corrcoef(values.ravel(), getattr(rough, name).ravel())[0, 1] > 0.9


def test_a_dropped_channel_has_a_gradient(network):
    subnet = a_subnet(network)
    gradient = gate_gradients(network, subnet, BLOCKS).channels
    assert np.abs(gradient[~subnet.channels]).min() > 0


def test_sequences_add_up(network):
    """Each sequence is an even part of the mean, so that workers may share them."""
    subnet = a_subnet(network)
    whole = gate_gradients(network, subnet, BLOCKS)
    parts = [gate_gradients(network, subnet, BLOCKS[i : i + 1]) for i in range(len(BLOCKS))]
    for name in vars(whole):
        mean = np.mean([getattr(part, name) for part in parts], axis=0)
        assert np.allclose(getattr(whole, name), mean, rtol=1e-4, atol=1e-6)


def test_the_teachers_weights_stay_as_they_are(teacher):
    network = checkpoint.load(teacher("llama-tied"))
    before = {name: tensor.clone() for name, tensor in network.weights.items()}
    gate_gradients(network, a_subnet(network), BLOCKS)
    for name, tensor in network.weights.items():
        assert torch.equal(tensor, before[name])
        assert tensor.grad is None
