"""Every architecture that litgpt registers, in miniature: right, or refused when it is loaded."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from litgpt.config import Config, name_to_config
from litgpt.model import GPT
from torch.nn import functional

from evo.errors import UserError
from evo.genome.cost import parameters
from evo.genome.subnet import Subnet
from evo.model import checkpoint as checkpoints
from evo.model.extract import extract
from evo.model.layerwise_gpt import hidden_states
from evo.model.network import Network
from evo.model.nll import summed_nll
from tests.support.cuts import random_subnet
from tests.support.families import random_tokens
from tests.support.masked import masked

LAYERS, HEADS, LENGTH = 4, 6, 24
SIZES = {
    "n_layer": LAYERS, "n_embd": 48, "n_head": HEADS, "head_size": 16, "intermediate_size": 64,
    "block_size": 128, "vocab_size": 112, "padded_vocab_size": 112,
}  # fmt: skip
BLOCKS = random_tokens(2, LENGTH)
CANNOT_BE_CUT = "is a mixture of experts|has multi-head latent attention"


def miniature(name: str) -> Config:
    """The architecture in small: windows shorter than a sequence, and different in each layer."""
    known = name_to_config[name]
    heads, groups = known.get("n_head", 32), known.get("n_query_groups")
    small: dict[str, Any] = dict(SIZES)
    small["n_query_groups"] = HEADS if groups in (None, heads) else 1 if groups == 1 else 2
    if known.get("sliding_window_size") is not None:
        small["sliding_window_size"] = 7
        if known.get("sliding_window_indices") is not None:
            small["sliding_window_indices"] = [1, 0, 0, 1]
    if known.get("rope_local_base_freq") is not None:
        small["rope_indices"] = [1, 0, 0, 1]
    if known.get("n_expert"):
        small |= {"n_expert": 2, "n_expert_per_token": 1, "moe_intermediate_size": 8}
        small |= {"n_expert_groups": None, "n_topk_groups": None, "first_k_dense_replace": None}
    if known.get("latent_attention"):
        ranks = {"q_lora_rank": 8, "kv_lora_rank": 8}
        channels = {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
        small["latent_attention"] = ranks | channels
    return Config.from_name(name, **small)


def architectures() -> list[Any]:
    """All names; those whose miniature is that of an earlier name, another base, or another length
    that a scaling was made for, aside, are slow."""
    seen, cases = set(), []
    for name in name_to_config:
        fields = asdict(miniature(name)) | dict.fromkeys(("hf_config", "rope_base", "norm_eps"))
        fields["name"] = [part for part in ("Gemma", "OLMo") if part in name]
        fields["rope_adjustments"] = sorted(fields["rope_adjustments"] or {})
        key = repr(fields)
        cases.append(pytest.param(name, marks=[pytest.mark.slow] if key in seen else []))
        seen.add(key)
    return cases


def random_network(config: Config) -> GPT:
    """A network in which every weight matters."""
    torch.manual_seed(0)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", architectures())
def test_it_is_scored_and_cut_as_litgpt_computes_it_or_refused_when_loaded(name, tmp_path):
    config = miniature(name)
    checkpoints.save_config(config, tmp_path)
    if config.n_expert or config.latent_attention:
        with pytest.raises(UserError, match=CANNOT_BE_CUT):
            checkpoints.load_config(tmp_path)
        return
    model = random_network(config)
    checkpoints.save(tmp_path / "checkpoint", model)
    loaded = checkpoints.load(tmp_path / "checkpoint")
    said = {**config.hf_config, "tie_word_embeddings": False}
    assert asdict(loaded.config) == asdict(replace(config, hf_config=said))
    rows = torch.from_numpy(BLOCKS).long()
    with torch.inference_mode():
        logits = model(rows[:, :-1])
        expected = functional.cross_entropy(logits.mT, rows[:, 1:], reduction="none").sum(1)
        found = summed_nll(loaded.model(), BLOCKS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)

    dimensions = loaded.architecture.dimensions
    assert parameters(loaded.architecture, loaded.widths) == sum(
        parameter.numel() for parameter in model.parameters()
    )
    for seed, uniform in ((0, True), (1, False)):
        subnet = subnet_without_a_layer(dimensions, seed, uniform=uniform)
        network = extract(loaded, subnet)
        assert parameters(loaded.architecture, subnet.widths) == sum(
            parameter.numel() for parameter in network.parameters()
        )
        with torch.inference_mode():
            expected = masked(model, subnet)(rows)
            torch.testing.assert_close(network(rows), expected, rtol=1e-4, atol=1e-4)
            hidden = hidden_states(network, rows)
            again = hidden_states(Network.of(network).model(), rows)
        torch.testing.assert_close(again, hidden, rtol=1e-5, atol=1e-5)
        winner = tmp_path / f"winner-{seed}"
        checkpoints.save(winner, network)
        with torch.inference_mode():
            torch.testing.assert_close(
                checkpoints.load(winner).model()(rows), expected, rtol=1e-4, atol=1e-4
            )


def subnet_without_a_layer(dimensions, seed: int, *, uniform: bool) -> Subnet:
    """Some of everything, without one of the middle layers; one or two channels say nothing."""
    rng = np.random.default_rng(seed)
    while True:
        subnet = random_subnet(dimensions, rng, uniform=uniform)
        layers = [bool(layer) for layer in subnet.layers]
        if subnet.channels.sum() > 12 and layers[0] and layers[3] and sum(layers) == LAYERS - 1:
            return subnet
