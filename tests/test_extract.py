import numpy as np
import pytest
import torch
import transformers
from litgpt.model import GPT
from torch import nn

from evo import checkpoint as checkpoints
from evo.checkpoint import Checkpoint, weights_hash
from evo.extract import extract
from evo.hf_config import SourceConfig
from evo.hf_weights import litgpt_weights, read_weights
from evo.model import is_tied
from evo.subnet import Subnet
from tests.cuts import random_subnet, take
from tests.families import FAMILIES, random_model, random_tokens

TOKENS = torch.from_numpy(random_tokens(2, 60)).long()


def logits_of(model):
    with torch.inference_mode():
        output = model(TOKENS)
    return getattr(output, "logits", output)


def cut(teacher, subnet, **how):
    return extract(teacher.config, teacher.weights, subnet, tied=teacher.tied, **how)


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
    small = getattr(transformers, f"{prefix}ForCausalLM")(
        getattr(transformers, f"{prefix}Config")(
            **settings
            | shape
            | {
                "hidden_size": subnet.widths.channels,
                "num_hidden_layers": subnet.widths.layers,
                "num_attention_heads": heads,
                "intermediate_size": subnet.widths.neurons[0],
            }
        )
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
    twice = extract(first.config, first.state_dict(), rest, tied=loaded.tied)
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
    same = Checkpoint(
        loaded.path,
        loaded.config,
        loaded.widths,
        litgpt_weights(source, loaded.config, permuted, None),
        loaded.tied,
        None,
    )
    assert same.hash != loaded.hash
    expected = logits_of(loaded.model())
    torch.testing.assert_close(logits_of(same.model()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("uniform", [True, False])
def test_a_winner_is_a_standalone_checkpoint(family, loaded, uniform, tmp_path):
    """A uniform one is litgpt's own; a layer-wise one loads through evo."""
    dimensions = loaded.architecture.dimensions
    subnet = random_subnet(dimensions, np.random.default_rng(7), uniform=uniform)
    assert subnet.widths.is_uniform == uniform
    winner = cut(loaded, subnet)
    checkpoints.save(tmp_path / "winner", winner, origin={"candidate": subnet.id})
    again = checkpoints.load(tmp_path / "winner")
    assert again.widths == subnet.widths
    assert again.tied == loaded.tied
    assert torch.equal(logits_of(again.model()), logits_of(winner))
    if uniform:
        plain = GPT(checkpoints.Config.from_file(tmp_path / "winner" / "model_config.yaml"))
        stored = torch.load(tmp_path / "winner" / "lit_model.pth", weights_only=True)
        plain.load_state_dict(stored, strict=True)
        assert torch.equal(logits_of(plain.eval()), logits_of(winner))


def test_the_teacher_is_only_read(loaded):
    before = weights_hash(loaded.weights)
    model = cut(loaded, Subnet.full(loaded.architecture.dimensions))
    model(TOKENS).mean().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.add_(1)
    assert weights_hash(loaded.weights) == before


def test_dtype(loaded):
    subnet = random_subnet(loaded.architecture.dimensions, np.random.default_rng(5), uniform=False)
    half = cut(loaded, subnet, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert logits_of(half).dtype == torch.bfloat16
    exact = logits_of(cut(loaded, subnet))
    assert (logits_of(half).float() - exact).abs().max() < 0.05 * exact.abs().max()
