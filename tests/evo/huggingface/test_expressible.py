"""Searches that stay within what the family's own class in transformers can say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from litgpt.config import Config
from litgpt.model import GPT

from evo.cli import main
from evo.commands.search.config import SearchConfig
from evo.commands.search.driver import search
from evo.commands.search.inputs import read_inputs
from evo.errors import UserError
from evo.genome.bins import Bin
from evo.genome.cost import PARAMETERS, Architecture
from evo.genome.enumeration import enumerate_space
from evo.genome.fit_to_bin import WidthPlan, cost_of
from evo.genome.head_size_space import HeadSizeSpace
from evo.genome.shape_tables import count_shapes, drawn
from evo.genome.space import Space
from evo.genome.subnet import Dimensions, Subnet
from evo.genome.width_limits import WidthLimits
from evo.huggingface.config import ExportConfig
from evo.huggingface.export_checkpoint import export
from evo.huggingface.to_config import native_heads
from evo.model import checkpoint
from evo.model.extract import extract
from evo.model.layerwise_gpt import config_of_widths
from evo.search.history.history import History
from tests.evo.genome.test_space import proposals
from tests.support.architectures import COSTS, NEOX, any_cost, is_member, random_order, share

WHOLE = WidthLimits(whole_heads=True)
SMALL = Architecture(Dimensions(2, 4, 2, 3), 5, 2, 1, 2, True, True, False, False, 2, 2)
UNIFORM = ("coarse-uniform", "fine-uniform")


@pytest.mark.parametrize("in_bin", ["fit", "reject"])
@pytest.mark.parametrize("name", UNIFORM)
@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.kind)
def test_every_proposal(cost, name, in_bin):
    limits = replace(WidthLimits.parse(["neurons=4"], ["layers=2"]), whole_heads=True)
    order = random_order(NEOX.dimensions)
    space = Space(name, NEOX, order, share(NEOX, 0.3, 0.45, cost), in_bin, limits)
    without = replace(limits, whole_heads=False)
    free = Space(name, NEOX, order, space.bin, in_bin, without)
    rng = np.random.default_rng(0)
    for subnets in proposals(space, rng, 12).values():
        assert all(is_member(space, subnet) for subnet in subnets)
        assert len({subnet.id for subnet in subnets}) > 3
    strangers = [free.sample(rng) for _ in range(12)]
    assert not all(is_member(space, subnet) for subnet in strangers)
    assert all(is_member(space, space.mutate(subnet, rng)) for subnet in strangers)


def test_all_shapes_come_up():
    """Also those with fewer heads than there is room for."""
    space = Space("coarse-uniform", NEOX, random_order(NEOX.dimensions), any_cost(NEOX),
                  limits=WHOLE)  # fmt: skip
    rng = np.random.default_rng(0)
    seen: Counter = Counter()
    one = space.sample(rng)
    for _ in range(400):
        one = space.mutate(one, rng)
        seen[one.widths.channels, one.widths.groups[0]] += 1
    assert set(seen) == {(8 * n, heads) for n in range(1, 5) for heads in range(1, n + 1)}


@pytest.mark.parametrize("name", UNIFORM)
def test_enumeration_against_brute_force(name):
    """A space that ends when all is scored has to know what there is."""
    d = SMALL.dimensions

    def masks(size: int) -> list[np.ndarray]:
        return [np.array(one) for one in product((False, True), repeat=size) if any(one)]

    space = Space(name, SMALL, random_order(d), any_cost(SMALL), limits=WHOLE)
    rows = (masks(d.groups), masks(d.neurons))
    every = [masks(d.layers), masks(d.channels), *rows * d.layers]
    subnets = [
        Subnet(layers, channels, np.stack(one[::2]), np.stack(one[1::2]))
        for layers, channels, *one in product(*every)
    ]
    expected = {subnet.id for subnet in subnets if is_member(space, subnet)}
    listed = enumerate_space(space, 100_000)
    assert listed is not None
    assert set(listed) == expected
    assert enumerate_space(space, len(expected) - 1) is None


def shapes(architecture: Architecture) -> Iterator[tuple[int, int, int, int]]:
    """Layers, channels, groups and neurons, from the definition."""
    d, size = architecture.dimensions, architecture.head_size
    for n, channels, groups, neurons in product(
        *(range(1, most + 1) for most in (d.layers, d.channels, d.groups, d.neurons))
    ):
        heads = groups * architecture.queries_per_group
        if channels % size == 0 and heads * size <= channels:
            yield n, channels, groups, neurons


@pytest.mark.parametrize("architecture", [NEOX, replace(NEOX, queries_per_group=2)])
def test_reach_and_drawn_against_brute_force(architecture):
    def plan_of(n: int, channels: int, groups: int, neurons: int) -> WidthPlan:
        every = np.ones(architecture.dimensions.layers, np.int64)
        return WidthPlan(n, channels, groups * every, neurons * every, np.arange(len(every)))

    known = {one: cost_of(architecture, PARAMETERS, plan_of(*one)) for one in shapes(architecture)}
    costs = np.array(sorted(known.values()))
    middle = int(costs[len(costs) // 2])
    rng = np.random.default_rng(0)
    for low, high in [(1, int(costs[-1])), (middle, middle), (middle, middle + 40), (1, 10)]:
        bin = Bin("b", low, high)
        found = count_shapes(architecture, bin, uniform=True, limits=WHOLE)
        inside = {one for one, cost in known.items() if cost in bin}
        below, above = costs[costs < low], costs[costs > high]
        assert found.inside == len(inside)
        assert found.below == (below.max() if below.size else None)
        assert found.above == (above.min() if above.size else None)
        for _ in range(10 if inside else 0):
            plan = drawn(architecture, bin, plan_of(1, 8, 1, 1), rng, uniform=True, limits=WHOLE)
            assert (plan.layers, plan.channels, plan.groups[0], plan.neurons[0]) in inside


def test_a_bin_of_one_shape():
    """Where the smallest change does not lead into the bin, what is drawn does."""
    target = (3, 24, 2, 7)
    every = np.ones(4, np.int64)
    exact = cost_of(NEOX, PARAMETERS, WidthPlan(3, 24, 2 * every, 7 * every, np.arange(4)))
    space = Space("coarse-uniform", NEOX, random_order(NEOX.dimensions),
                  Bin("b", exact, exact), limits=WHOLE)  # fmt: skip
    rng = np.random.default_rng(0)
    found = {
        (w.layers, w.channels, w.groups[0], w.neurons[0])
        for w in (space.sample(rng).widths for _ in range(20))
    }
    assert target in set(shapes(NEOX))
    assert found <= set(shapes(NEOX))


def test_nothing_left():
    with pytest.raises(UserError, match="8 query groups have 64 channels, but the residual stream"):
        replace(WHOLE, floors=Dimensions(1, 1, 8, 1)).grid(
            replace(NEOX, dimensions=Dimensions(4, 32, 8, 40))
        )
    with pytest.raises(UserError, match="that is --expressible-in hf is in the bin"):
        Space("coarse-uniform", NEOX, random_order(NEOX.dimensions), Bin("b", 1, 2), limits=WHOLE)


@pytest.mark.parametrize(
    ("family", "sizes"), [("neox-sequential", [4, 8]), ("llama", [4, 6, 8]), ("olmo2", None)]
)
def test_candidates_of_small_teachers(family, sizes, teacher: Callable[[str], Path]):
    """With heads of several sizes, each with its own multiples of channels."""
    stored = checkpoint.load(teacher(family))
    limits = replace(WHOLE, whole_heads=family.startswith("neox"))
    architecture = stored.architecture
    inputs = architecture, random_order(architecture.dimensions), share(architecture, 0.3, 0.5)
    rng = np.random.default_rng(0)
    for name in UNIFORM:
        space = (
            HeadSizeSpace(name, *inputs, limits=limits, head_sizes=sizes)
            if sizes
            else Space(name, *inputs, limits=limits)
        )
        for subnets in proposals(space, rng, 10).values():
            for subnet in subnets:
                config = config_of_widths(stored.config, subnet.widths)
                assert native_heads(config, subnet.widths) >= config.n_head


@pytest.mark.slow
@pytest.mark.ray
def test_every_candidate_of_a_search_exports_natively(
    teacher: Callable[[str], Path], tmp_path: Path, shared_ray: None
) -> None:
    """From the search to the directories, by weight magnitude, for which nothing is scored but the
    winners."""
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 112, 800))
    search(
        SearchConfig(
            teacher=teacher("neox"),
            text=str(tmp_path / "tokens.npy"),
            bins=["40%"],
            spaces=["fine-uniform"],
            out=tmp_path / "run",
            expressible_in="hf",
            order="magnitude",
            fitness="magnitude",
            population=5,
            generations=1,
            elites=2,
            sequence_length=40,
            workers=1,
            score_cache=False,
        )
    )
    stored = checkpoint.load(teacher("neox"))
    directory = tmp_path / "run" / "searches" / "fine-uniform@40%"
    rows = History(directory).rows()
    assert len(rows) == 10
    for row in rows:
        subnet = Subnet.unpack(row.genome, stored.architecture.dimensions)
        model = extract(stored, subnet)
        checkpoint.save(tmp_path / row.candidate, model)
        result = export(
            ExportConfig(tmp_path / row.candidate, tmp_path / f"hf-{row.candidate}", native=True)
        )
        assert result["class"] == "GPTNeoXForCausalLM"
        assert result["logit_difference"] < 2e-5


@pytest.mark.parametrize(
    ("family", "given", "message"),
    [
        ("neox", ["--spaces", "coarse-layerwise"], "layers of coarse-layerwise differ in width"),
        ("scaled", [], "divides attention scores by the root of the head size (8), not of 32"),
        ("llama-biases", [], "biases only where its channels are a multiple of its heads"),
        ("neox", ["--expressible-in", "gguf"], "--expressible-in: give one of litgpt, export, hf"),
    ],
)
def test_refusals(family, given, message, teacher, tmp_path, capsys, monkeypatch):
    directory = tmp_path / "teacher"
    stored = checkpoint.load(teacher("neox" if family == "scaled" else family))
    model = stored.model()
    if family == "scaled":
        model.config = replace(stored.config, attention_scores_scalar=32)
    checkpoint.save(directory, model)
    monkeypatch.chdir(tmp_path)
    np.save("tokens.npy", np.zeros(200, np.int64))
    command = ["search", "--teacher", str(directory), "--text", "tokens.npy", "--bins", "40%"]
    assert main([*command, "--out", "run", "--expressible-in", "hf", *given]) == 2
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_what_no_export_can_say_is_refused_before_the_search(teacher, tmp_path, capsys):
    """A Falcon shares a norm between attention and MLP, which the modelling file does not."""
    falcon = Config.from_name(
        "falcon-7b", n_layer=2, n_embd=32, n_head=4, head_size=8, block_size=64, vocab_size=50,
        padded_vocab_size=64, intermediate_size=64,
    )  # fmt: skip
    checkpoint.save(tmp_path / "falcon", GPT(falcon))
    np.save(tmp_path / "tokens.npy", np.zeros(200, np.int64))
    command = ["search", "--teacher", str(tmp_path / "falcon"), "--bins", "40%",
               "--text", str(tmp_path / "tokens.npy"), "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(command) == 2
    assert capsys.readouterr().err == (
        "evo search: --expressible-in export: no export can say shared_attention_norm True of "
        "falcon-7b; --expressible-in litgpt searches all the same, for litgpt alone\n"
    )
    assert not (tmp_path / "run").exists()
    config = SearchConfig(
        teacher=tmp_path / "falcon",
        text=[str(tmp_path / "tokens.npy")],
        bins=["40%"],
        out=tmp_path / "run",
        expressible_in="litgpt",
    )
    assert read_inputs(config).teacher.config.shared_attention_norm
