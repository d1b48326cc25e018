from dataclasses import replace

import numpy as np
import pytest
import torch
from litgpt.config import Config
from litgpt.model import GPT
from torch import nn

from evo.genome.cost import parameters
from evo.genome.subnet import Subnet
from evo.huggingface.from_weights import litgpt_weights, read_weights
from evo.huggingface.source_config import SourceConfig
from evo.model import checkpoint as checkpoints
from evo.model.checkpoint import Checkpoint
from evo.model.extract import extract
from evo.model.layerwise_gpt import architecture_of, head_sizes, is_tied
from evo.model.network import Network
from tests.support.cuts import random_subnet, take
from tests.support.families import FAMILIES, network, random_model, random_tokens

TOKENS = torch.from_numpy(random_tokens(2, 60)).long()


def logits_of(model):
    with torch.inference_mode():
        output = model(TOKENS)
    return getattr(output, "logits", output)


def cut(teacher, subnet, **how):
    return extract(teacher, subnet, **how)


def indices(subnet):
    """The kept indices, as `take` wants them."""
    layers = np.flatnonzero(subnet.layers)
    return {
        "layers": layers,
        "channels": np.flatnonzero(subnet.channels),
        "groups": [np.flatnonzero(subnet.groups[layer]) for layer in layers],
        "neurons": [np.flatnonzero(subnet.neurons[layer]) for layer in layers],
    }


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def loaded(family, teacher) -> Checkpoint:
    return checkpoints.load(teacher(family))


def test_the_full_subnet_is_the_teacher_bit_for_bit(loaded):
    full = cut(loaded, Subnet.full(loaded.architecture.dimensions))
    assert type(full) is GPT
    assert is_tied(full) == loaded.tied
    assert torch.equal(logits_of(full), logits_of(loaded.model()))


def test_a_cut_is_what_transformers_computes_with_the_kept_rows(family, loaded):
    """Every dimension cut at once, against transformers' own class of the smaller shape."""
    architecture = loaded.architecture
    rng = np.random.default_rng(1)
    subnet = random_subnet(architecture.dimensions, rng, uniform=True)
    prefix, settings = FAMILIES[family]
    size, ratio = architecture.head_size, architecture.queries_per_group
    heads = subnet.widths.groups[0] * ratio
    if prefix == "GPTNeoX":  # transformers' has no free head size: channels must be heads x size
        channels = rng.permutation(64) < heads * size
        subnet = Subnet(subnet.layers, channels, subnet.groups, subnet.neurons)
        shape = {}
    else:
        shape = {"head_dim": size, "num_key_value_heads": subnet.widths.groups[0]}
    kinds = random_model(prefix, settings).config
    if (types := getattr(kinds, "layer_types", None)) is not None:
        shape["layer_types"] = [types[layer] for layer in np.flatnonzero(subnet.layers)]
    small = network(
        prefix,
        settings
        | shape
        | {
            "hidden_size": subnet.widths.channels,
            "num_hidden_layers": subnet.widths.layers,
            "num_attention_heads": heads,
            "intermediate_size": subnet.widths.neurons[0],
        },
    )
    weights = random_model(prefix, settings).state_dict()
    small.load_state_dict(take(weights, head_size=size, queries_per_group=ratio, **indices(subnet)))
    expected = logits_of(small.eval())
    torch.testing.assert_close(logits_of(cut(loaded, subnet)), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_layerwise_cut_is_the_teacher_with_the_rest_silenced(family, loaded, seed):
    """Without what is cut, nothing of it reaches the residual stream: zero its output columns."""
    architecture = loaded.architecture
    subnet = random_subnet(architecture.dimensions, np.random.default_rng(seed), uniform=False)
    groups = subnet.groups
    if family == "olmo2":  # its query and key norms run over all heads, so that a cut changes them
        groups = np.ones_like(groups)
    subnet = Subnet(subnet.layers, np.ones(64, bool), groups, subnet.neurons)
    prefix, settings = FAMILIES[family]
    model = random_model(prefix, settings)
    body = model.gpt_neox if prefix == "GPTNeoX" else model.model
    rows = architecture.queries_per_group * architecture.head_size
    with torch.no_grad():
        for layer, block in enumerate(body.layers):
            if prefix == "GPTNeoX":
                attention, mlp = block.attention.dense, block.mlp.dense_4h_to_h
            else:
                attention, mlp = block.self_attn.o_proj, block.mlp.down_proj
            attention.weight[:, np.repeat(~subnet.groups[layer], rows)] = 0
            mlp.weight[:, ~subnet.neurons[layer]] = 0
    body.layers = nn.ModuleList(body.layers[layer] for layer in np.flatnonzero(subnet.layers))
    model.config.use_cache = False
    expected = logits_of(model)
    torch.testing.assert_close(logits_of(cut(loaded, subnet)), expected, rtol=0, atol=5e-5)


def test_cutting_twice_is_cutting_once(loaded):
    dimensions = loaded.architecture.dimensions
    subnet = random_subnet(dimensions, np.random.default_rng(4), uniform=True)
    full = Subnet.full(dimensions)
    channels_only = Subnet(full.layers, subnet.channels, full.groups, full.neurons)
    once = cut(loaded, subnet)
    first = cut(loaded, channels_only)
    kept = np.ones(subnet.widths.channels, bool)
    rest = Subnet(subnet.layers, kept, subnet.groups, subnet.neurons)
    twice = extract(Network.of(first), rest)
    assert torch.equal(logits_of(once), logits_of(twice))


def test_permuting_leaves_the_function_unchanged(family, loaded, hf_checkpoint):
    """Why 'the first n as stored' means nothing: channels, groups and neurons have no order."""
    d, rng = loaded.architecture.dimensions, np.random.default_rng(0)
    source = SourceConfig.read(hf_checkpoint(family) / "config.json")
    weights = read_weights(source.path.parent)
    permuted = take(
        weights,
        head_size=loaded.architecture.head_size,
        queries_per_group=loaded.architecture.queries_per_group,
        layers=np.arange(d.layers),
        channels=rng.permutation(d.channels),
        groups=[rng.permutation(d.groups) for _ in range(d.layers)],
        neurons=[rng.permutation(d.neurons) for _ in range(d.layers)],
    )
    same = replace(loaded, weights=litgpt_weights(source, loaded.config, permuted, None))
    assert same.hash != loaded.hash
    expected = logits_of(loaded.model())
    torch.testing.assert_close(logits_of(same.model()), expected, rtol=1e-5, atol=5e-5)


HEAD_SIZES = {"neox": [8], "neox-sequential": [4, 8], "qwen3": [2, 4, 6, 8, 10, 12]}
HEAD_SIZES |= dict.fromkeys(("gemma", "gemma2", "gemma3"), HEAD_SIZES["qwen3"])


def test_heads_cut_to_their_leading_pairs_are_the_teachers_with_the_rest_silenced(family, loaded):
    """transformers' own class and rotary table; the dropped queries, keys and values are zero."""
    size, rotary = loaded.config.head_size, loaded.config.rope_n_elem
    sizes = head_sizes(loaded.config)
    assert sizes == HEAD_SIZES.get(family, [2, 4, 6, 8])
    full = Subnet.full(loaded.architecture.dimensions)
    for smaller in sizes[:-1]:
        pairs = rotary * smaller // size // 2
        dropped = [i for i in range(rotary) if i % (rotary // 2) >= pairs]
        dropped += range(rotary + smaller - 2 * pairs, size)
        assert len(dropped) == size - smaller
        model = silenced(family, size, smaller, dropped)
        winner = cut(loaded, replace(full, head_size=smaller))
        assert type(winner) is GPT
        torch.testing.assert_close(logits_of(winner), logits_of(model), rtol=0, atol=1e-4)


def silenced(family, size, smaller, dropped):
    """A family's network as transformers has it, without the dropped channels of all heads."""
    prefix, settings = FAMILIES[family]
    model = random_model(prefix, settings)
    body = model.gpt_neox if prefix == "GPTNeoX" else model.model
    for block in body.layers:
        attention = block.attention if prefix == "GPTNeoX" else block.self_attn
        attention.scaling *= (size / smaller) ** 0.5
        parts = ("query_key_value",) if prefix == "GPTNeoX" else ("q_proj", "k_proj", "v_proj")
        with torch.no_grad():
            for parameter in [p for part in parts for p in getattr(attention, part).parameters()]:
                parameter.unflatten(0, (-1, size))[:, dropped] = 0
            for name in ("q_norm", "k_norm"):  # their mean square is then over the kept ones alone
                if norm := getattr(attention, name, None):
                    offset = int(prefix == "Gemma3")  # its weight is stored less one
                    norm.weight.copy_((norm.weight + offset) * (smaller / size) ** 0.5 - offset)
                    epsilon = "eps" if offset else "variance_epsilon"
                    setattr(norm, epsilon, getattr(norm, epsilon) * smaller / size)
    return model


@pytest.mark.parametrize("uniform", [True, False])
def test_heads_are_cut_independently_of_the_rest(loaded, uniform):
    if len(sizes := head_sizes(loaded.config)) == 1:
        pytest.skip("one rotary pair cannot be cut")
    rng = np.random.default_rng(6)
    subnet = random_subnet(loaded.architecture.dimensions, rng, uniform=uniform)
    once = cut(loaded, replace(subnet, head_size=sizes[0]))
    first = cut(loaded, replace(Subnet.full(subnet.dimensions), head_size=sizes[0]))
    twice = extract(Network.of(first), subnet)
    assert torch.equal(logits_of(once), logits_of(twice))


def test_interleaved_pairs():
    """Pairs that are neighbours, as litgpt's flag has it: the same network, its rows permuted."""
    config = Config(
        n_layer=1, n_embd=16, n_head=2, head_size=8, rotary_percentage=0.5, padded_vocab_size=16,
        block_size=64,
    )  # fmt: skip
    torch.manual_seed(0)
    halves = GPT(config).eval()
    interleaved = GPT(replace(config, rope_interleave=True)).eval()
    weights = halves.state_dict()
    interleaved.load_state_dict(weights)
    attention = interleaved.transformer.h[0].attn.qkv
    for parameter in attention.parameters():
        heads = parameter.data.unflatten(0, (6, 8))
        heads[:4] = heads[:4][:, [0, 2, 1, 3, 4, 5, 6, 7]]  # queries and keys, not values
    tokens = TOKENS % 16
    torch.testing.assert_close(interleaved(tokens), halves(tokens))
    subnet = replace(Subnet.full(architecture_of(config, tied=False).dimensions), head_size=4)
    kept = extract(Network.of(halves), subnet).transformer.h[0].attn.qkv.weight
    other = extract(Network.of(interleaved), subnet)
    # The first pair is (0, 2) of the halves' head and (0, 1) of the interleaved one.
    assert torch.equal(other.transformer.h[0].attn.qkv.weight[:16], kept[:16])


@pytest.mark.parametrize("cut_heads", [False, True])
@pytest.mark.parametrize("uniform", [True, False])
def test_a_winner_is_a_standalone_checkpoint(family, loaded, uniform, cut_heads, tmp_path):
    """A uniform one is litgpt's own; a layer-wise one loads through evo."""
    dimensions = loaded.architecture.dimensions
    subnet = random_subnet(dimensions, np.random.default_rng(7), uniform=uniform)
    assert subnet.widths.is_uniform == uniform
    sizes = head_sizes(loaded.config)
    if cut_heads:
        subnet = replace(subnet, head_size=sizes[0] if len(sizes) > 1 else None)
    winner = cut(loaded, subnet)
    checkpoints.save(tmp_path / "winner", winner, origin={"candidate": subnet.id})
    again = checkpoints.load(tmp_path / "winner")
    assert again.widths == replace(subnet.widths, head_size=None)
    assert again.config.head_size == (subnet.head_size or sizes[-1])
    assert torch.equal(again.model().cos, winner.cos)
    counted = sum(parameter.numel() for parameter in winner.parameters())
    assert parameters(loaded.architecture, subnet.widths) == counted
    assert parameters(again.architecture, again.widths) == counted
    assert again.tied == loaded.tied
    assert torch.equal(logits_of(again.model()), logits_of(winner))
    if uniform:
        plain = GPT(checkpoints.Config.from_file(tmp_path / "winner" / "model_config.yaml"))
        stored = torch.load(tmp_path / "winner" / "lit_model.pth", weights_only=True)
        plain.load_state_dict(stored, strict=True)
        assert torch.equal(logits_of(plain.eval()), logits_of(winner))


def test_the_teacher_is_only_read(loaded):
    before = replace(loaded).hash
    model = cut(loaded, Subnet.full(loaded.architecture.dimensions))
    model(TOKENS).mean().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.add_(1)
    assert replace(loaded).hash == before


def test_dtype(loaded):
    subnet = random_subnet(loaded.architecture.dimensions, np.random.default_rng(5), uniform=False)
    half = cut(loaded, subnet, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert logits_of(half).dtype == torch.bfloat16
    exact = logits_of(cut(loaded, subnet))
    assert (logits_of(half).float() - exact).abs().max() < 0.1 * exact.abs().max()
