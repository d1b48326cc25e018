from collections.abc import Iterator

import numpy as np
import pytest
import torch
from litgpt.config import Config
from litgpt.model import GPT, Block

from evo.genome.ranking import Order
from evo.genome.subnet import Widths
from evo.model.importance import importance_by_activation, importance_by_magnitude
from evo.model.layerwise_gpt import build

COMMON = {
    "block_size": 24,
    "vocab_size": 40,
    "padded_vocab_size": 40,
    "n_layer": 4,
    "n_embd": 32,
    "head_size": 8,
    "intermediate_size": 24,
}
CONFIGS = {
    "neox": Config(name="pythia-tiny", n_head=4, rotary_percentage=0.25, **COMMON),
    "grouped": Config(
        name="Llama-tiny",
        n_head=8,
        n_query_groups=4,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        **COMMON,
    ),
}


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Iterator[GPT]:
    """A random network, in evaluation."""
    with torch.no_grad():
        yield random_network(request.param)


def random_network(name: str) -> GPT:
    config = CONFIGS[name]
    torch.manual_seed(0)
    model = build(config, Widths(32, (config.n_query_groups,) * 4, (24,) * 4)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def text(model: GPT, rows: int = 24, length: int = 16) -> np.ndarray:
    """What the network itself would say, so that every part of it lowers the loss."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(40, (rows, 1), generator=generator)
    while tokens.size(1) < length:
        chances = model(tokens)[:, -1].softmax(-1)
        tokens = torch.cat([tokens, torch.multinomial(chances, 1, generator=generator)], 1)
    return tokens.numpy().astype(np.int32)


def order_by_magnitude(model: GPT) -> Order:
    return Order.by_importance(**vars(importance_by_magnitude(model)))


def order_by_activation(model: GPT, blocks: np.ndarray, micro_batch: int = 8) -> Order:
    return Order.by_importance(**vars(importance_by_activation(model, blocks, micro_batch)))


def orders(model: GPT) -> dict[str, Order]:
    return {
        "magnitude": order_by_magnitude(model),
        "activation": order_by_activation(model, text(model), micro_batch=5),
    }


def readers(block: Block) -> list[torch.nn.Linear]:
    mlp = block.mlp
    return [block.attn.qkv, *((mlp.fc,) if hasattr(mlp, "fc") else (mlp.fc_1, mlp.fc_2))]


def first(ranks: np.ndarray, count: int) -> set[int]:
    return set(np.flatnonzero(ranks < count).tolist())


def test_planted_neurons_are_first(model):
    planted = [{1, 5, 20}, {0, 23}, {7}, {2, 3, 4, 5}]
    for block, neurons in zip(model.transformer.h, planted, strict=True):
        block.mlp.proj.weight[:, list(neurons)] *= 30
    for order in orders(model).values():
        assert [first(ranks, len(n)) for ranks, n in zip(order.neurons, planted, strict=True)] == (
            planted
        )


def test_planted_groups_are_first(model):
    planted = [{2}, {0, 3}, {1}, {1, 2}]
    for block, groups in zip(model.transformer.h, planted, strict=True):
        by_group = block.attn.proj.weight.unflatten(1, (4, -1))
        by_group[:, list(groups)] *= 30
    for order in orders(model).values():
        assert [first(ranks, len(g)) for ranks, g in zip(order.groups, planted, strict=True)] == (
            planted
        )


def test_planted_channels_are_first(model):
    planted = [3, 17, 30, 31]
    for block in model.transformer.h:
        for matrix in readers(block):
            matrix.weight[:, planted] *= 30
    model.lm_head.weight[:, planted] *= 30
    for order in orders(model).values():
        assert first(order.channels, 4) == set(planted)


def test_planted_layers_are_first(model):
    """The others write next to nothing to the residual stream."""
    for index in (0, 2):
        for matrix in (model.transformer.h[index].attn.proj, model.transformer.h[index].mlp.proj):
            for parameter in matrix.parameters():
                parameter *= 1e-4
    model.lm_head.weight *= 10
    for order in orders(model).values():
        assert first(order.layers, 2) == {1, 3}


def test_permuted_neurons_have_permuted_ranks(model):
    before = orders(model)
    shuffle = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    for block in model.transformer.h:
        block.mlp.proj.weight.copy_(block.mlp.proj.weight[:, shuffle].clone())
        for matrix in readers(block)[1:]:
            for parameter in matrix.parameters():
                parameter.copy_(parameter[shuffle].clone())
    for kind, after in orders(model).items():
        assert np.array_equal(after.neurons, before[kind].neurons[:, shuffle.numpy()])
        assert np.array_equal(after.groups, before[kind].groups)
        assert np.array_equal(after.channels, before[kind].channels)


def test_permuted_groups_have_permuted_ranks(model):
    before = orders(model)
    config = model.config
    shuffle = torch.tensor([2, 0, 3, 1])
    sizes = [config.n_head * 8, 32, 32]  # query, key and value rows
    for block in model.transformer.h:
        for parameter in block.attn.qkv.parameters():
            parts = [
                part.unflatten(0, (4, -1))[shuffle].flatten(0, 1) for part in parameter.split(sizes)
            ]
            parameter.copy_(torch.cat(parts))
        weight = block.attn.proj.weight
        weight.copy_(weight.unflatten(1, (4, -1))[:, shuffle].flatten(1, 2))
    for kind, after in orders(model).items():
        assert np.array_equal(after.groups, before[kind].groups[:, shuffle.numpy()])
        assert np.array_equal(after.neurons, before[kind].neurons)


@torch.no_grad()
def test_the_scale_at_which_neurons_work_does_not_matter():
    """What gates can be scaled up and read scaled down: the same function."""
    model = random_network("grouped")
    before = orders(model)
    scale = torch.logspace(-1, 1, 24)
    for block in model.transformer.h:
        block.mlp.fc_2.weight *= scale[:, None]
        block.mlp.proj.weight /= scale
    for kind, after in orders(model).items():
        assert np.array_equal(after.neurons, before[kind].neurons)


def test_the_model_is_left_as_it_was(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens = torch.from_numpy(text(model)).long()
    logits = model(tokens)
    orders(model)
    assert len(model.transformer.h) == 4
    assert torch.equal(model(tokens), logits)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks


def test_micro_batches_do_not_matter(model):
    blocks = text(model, rows=10)
    one = order_by_activation(model, blocks, micro_batch=1)
    all_at_once = order_by_activation(model, blocks, micro_batch=16)
    for name in ("layers", "groups", "neurons"):
        assert np.array_equal(getattr(one, name), getattr(all_at_once, name))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_any_dtype_is_ranked_without_a_warning(model, dtype, recwarn):
    model.to(dtype)
    tokens = text(model)
    with torch.enable_grad():
        found = order_by_magnitude(model), order_by_activation(model, tokens)
    for order in found:
        for ranks in (order.layers, order.channels, *order.groups, *order.neurons):
            assert sorted(ranks) == list(range(len(ranks)))
    assert not [one for one in recwarn if issubclass(one.category, UserWarning)]


def test_a_layer_matters_as_much_as_the_loss_grows_without_it(model):
    blocks = text(model, rows=6)
    rows = torch.from_numpy(blocks).long()

    def loss() -> float:
        logits = model(rows[:, :-1])
        return torch.nn.functional.cross_entropy(logits.mT, rows[:, 1:], reduction="sum").item()

    expected, every = [], model.transformer.h
    base = loss()
    for dropped in range(4):
        model.transformer.h = torch.nn.ModuleList(
            [block for index, block in enumerate(every) if index != dropped]
        )
        expected.append(loss() - base)
        model.transformer.h = every
    found = importance_by_activation(model, blocks).layers
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
