import numpy as np
import pytest
import torch

from evo.genome.cost import parameters
from evo.genome.subnet import Dimensions, Subnet
from evo.model import checkpoint
from tests.support.architectures import NEOX
from tests.support.cuts import random_subnet
from tests.support.rays import own_ray
from workers.pool.stored_teacher import store_teacher
from workers.settings import ScoringSettings
from workers.tasks.micro_batch import find_micro_batch, largest, largest_within

pytestmark = pytest.mark.ray


def test_the_largest_power_of_two_that_fits():
    tried = []

    def peak(micro_batch: int) -> float:
        tried.append(micro_batch)
        return 100 + 10 * micro_batch if micro_batch < 32 else float("inf")

    for limit, most, expected in (
        (0, 64, 1),
        (119, 64, 1),
        (120, 64, 2),
        (259, 64, 8),
        (1e9, 64, 16),
        (1e9, 11, 8),
        (1e9, 1, 1),
    ):
        tried.clear()
        assert largest_within(limit, most, peak) == expected
        assert tried == sorted(tried)
        assert not [one for one in tried if one > most or one > 2 * expected]


def test_the_largest_candidate_by_weights_or_by_activations():
    rng = np.random.default_rng(0)
    subnets = [random_subnet(NEOX.dimensions, rng, uniform=True) for _ in range(30)]
    by_weights = max(subnets, key=lambda one: parameters(NEOX, one.widths))
    assert parameters(NEOX, largest(subnets, NEOX, 0).widths) == parameters(NEOX, by_weights.widths)
    widths = largest(subnets, NEOX, 10**12).widths
    heads = (NEOX.queries_per_group + 2) * NEOX.head_size

    def widest(subnet: Subnet) -> int:
        own = subnet.widths
        return 2 * own.channels + heads * own.groups[0] + NEOX.mlp_matrices * own.neurons[0]

    assert 2 * widths.channels + heads * widths.groups[0] + (
        NEOX.mlp_matrices * widths.neurons[0]
    ) == max(map(widest, subnets))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_what_fits_depends_on_the_share_of_memory(teacher):
    loaded = checkpoint.load(teacher("llama-tied"))
    d = loaded.architecture.dimensions
    full = Subnet.full(Dimensions(d.layers, d.channels, d.groups, d.neurons))
    blocks = np.zeros((64, 60), np.int32)
    with own_ray():
        found = [
            find_micro_batch(
                store_teacher(loaded),
                full,
                blocks,
                ScoringSettings(device="cuda", device_share=share),
                1,
            )
            for share in (1.0, 1e-9)
        ]
    assert found == [64, 1]
