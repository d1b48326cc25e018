"""Tensors under the names of a family's class: the inverse of `evo.huggingface.from_weights`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from evo.genome.subnet import Widths
from evo.huggingface.to_config import family_of, native_heads
from evo.model.litgpt import Config
from evo.model.network import HEAD

NEOX_NAMES = {
    "transformer.wte": "gpt_neox.embed_in",
    "transformer.ln_f": "gpt_neox.final_layer_norm",
    "lm_head": "embed_out",
    "transformer.h": "gpt_neox.layers",
    "norm_1": "input_layernorm",
    "norm_2": "post_attention_layernorm",
    "attn.qkv": "attention.query_key_value",
    "attn.proj": "attention.dense",
    "mlp.fc": "mlp.dense_h_to_4h",
    "mlp.proj": "mlp.dense_4h_to_h",
}
GATED_NAMES = {
    "transformer.wte": "model.embed_tokens",
    "transformer.ln_f": "model.norm",
    "lm_head": "lm_head",
    "transformer.h": "model.layers",
    "norm_1": "input_layernorm",
    "norm_2": "post_attention_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.proj": "self_attn.o_proj",
    "attn.norm_q": "self_attn.q_norm",
    "attn.norm_k": "self_attn.k_norm",
    "mlp.fc_1": "mlp.gate_proj",
    "mlp.fc_2": "mlp.up_proj",
    "mlp.proj": "mlp.down_proj",
}
"""Modules by their names in litgpt, without the number of the block, and in transformers. The norms
after attention and before the MLP share a name there, but in Gemma 2 and 3, which have both."""


def native_weights(
    config: Config, widths: Widths, weights: Mapping[str, Tensor], *, tied: bool
) -> dict[str, Tensor]:
    """The tensors under the names of the family's own class; a tied head is left out.

    `weights` are by litgpt's names.

    Raises:
        UserError: the class cannot say it.
    """
    neox = family_of(config) == "gpt_neox"
    if neox:
        config, weights = with_silent_heads(config, weights, native_heads(config, widths))
    names, native = NEOX_NAMES if neox else GATED_NAMES, {}
    if config.norm_2 and config.post_attention_norm:  # Gemma 2 and 3
        names = {**names, "norm_2": "pre_feedforward_layernorm"}
    for name, tensor in weights.items():
        if tied and name == HEAD:
            continue
        for part, piece in _pieces(config, name, tensor, interleaved=neox):
            module, _, kind = part.rpartition(".")
            if module.startswith("transformer.h."):
                layer, _, module = module.removeprefix("transformer.h.").partition(".")
                native[f"{names['transformer.h']}.{layer}.{names[module]}.{kind}"] = piece
            else:
                native[f"{names[module]}.{kind}"] = piece
    return native


def _pieces(
    config: Config, name: str, tensor: Tensor, *, interleaved: bool
) -> Iterator[tuple[str, Tensor]]:
    """litgpt's rows of all queries, keys and values: each on its own, or head by head."""
    if ".attn.qkv." not in name:
        yield name, tensor
        return
    keys = config.n_query_groups * config.head_size
    parts = tensor.split([config.n_head * config.head_size, keys, keys])
    if interleaved:
        by_head = [part.unflatten(0, (config.n_head, config.head_size)) for part in parts]
        yield name, torch.stack(by_head, 1).flatten(0, 2)
        return
    for letter, part in zip("qkv", parts, strict=True):
        yield name.replace("qkv", letter), part.clone()  # views of one tensor cannot be written


def with_silent_heads(
    config: Config, weights: Mapping[str, Tensor], heads: int
) -> tuple[Config, dict[str, Tensor]]:
    """The network with so many heads that the new ones give exactly nothing.

    Their values are zero, and so are the output projection's columns for them. The network is
    uniform and without grouped queries; its weights are by litgpt's names.
    """
    missing = (heads - config.n_head) * config.head_size
    if not missing:
        return config, dict(weights)
    filled = dict(weights)
    for name, tensor in weights.items():
        if ".attn.qkv." in name:
            below = (0, 0) * (tensor.dim() - 1) + (0, missing)
            filled[name] = torch.cat([functional.pad(part, below) for part in tensor.chunk(3)])
        elif name.endswith(".attn.proj.weight"):
            filled[name] = functional.pad(tensor, (0, missing))
    return replace(config, n_head=heads, n_query_groups=heads), filled
