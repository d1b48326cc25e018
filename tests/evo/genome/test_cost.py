import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from evo.genome.cost import Cost, UnitCosts, forward_flops, parameters, unit_costs
from evo.genome.subnet import Subnet
from evo.model import checkpoint as checkpoints
from evo.model.extract import extract
from tests.support.cuts import random_subnet
from tests.support.families import FAMILIES, random_tokens


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_closed_form_is_what_the_network_has(family, uniform, teacher):
    loaded = checkpoints.load(teacher(family))
    architecture = loaded.architecture
    rng = np.random.default_rng(3)
    subnets = [random_subnet(architecture.dimensions, rng, uniform=uniform) for _ in range(6)]
    for subnet in [*subnets, Subnet.full(architecture.dimensions)]:
        model = extract(loaded, subnet)
        counted = sum(parameter.numel() for parameter in model.parameters())
        assert parameters(architecture, subnet.widths) == counted
        for length in (8, 72):
            tokens = torch.from_numpy(random_tokens(1, length)).long()
            counter = FlopCounterMode(display=False)
            # the counter does not know the CPU's fused attention; the plain one is matrix products
            with counter, torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
                model(tokens)
            flops = forward_flops(architecture, subnet.widths, length) * length
            assert flops == pytest.approx(counter.get_total_flops(), rel=0.01)
            for block in model.transformer.h:  # a window's cache is counted whole
                block.attn.apply_sliding_window_attention = False
            model.set_kv_cache(1, length, dtype=torch.bfloat16)
            caches = [model.transformer.h[i].attn.kv_cache for i in range(subnet.widths.layers)]
            size = sum(cache.k.nbytes + cache.v.nbytes for cache in caches)
            model.clear_kv_cache()
            assert Cost("kv-cache", length).of(architecture, subnet.widths) == size


@pytest.mark.parametrize("family", FAMILIES)
def test_prices_add_up(family, teacher):
    """The total is linear in layers, groups and neurons at a given number of channels."""
    loaded = checkpoints.load(teacher(family))
    architecture = loaded.architecture
    for channels in (1, 17, 64):
        subnet = Subnet.full(architecture.dimensions)
        kept = np.arange(64) < channels
        widths = Subnet(subnet.layers, kept, subnet.groups, subnet.neurons).widths
        unit_cost = unit_costs(architecture, channels)
        total = unit_cost.total(3, sum(widths.groups), sum(widths.neurons))
        assert total == parameters(architecture, widths)
    elementwise = unit_costs(architecture, np.array([1, 17, 64]))
    assert elementwise.total(3, 4, 5).tolist() == [
        UnitCosts.total(unit_costs(architecture, channels), 3, 4, 5) for channels in (1, 17, 64)
    ]
