"""A litgpt GPT whose blocks may differ in width.

A uniform network is litgpt's own `GPT`. A layer-wise one cannot be said in a litgpt `Config`, but
its `Block` takes any per-block `Config` and `GPT.forward` runs the blocks unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from litgpt.config import Config
from litgpt.model import GPT, Block, do_softcapping
from torch import Tensor, nn

from evo.cost import Architecture, parameters
from evo.subnet import Dimensions, Widths


class LayerwiseGPT(GPT):
    """A GPT with its own number of query groups and MLP neurons in each block.

    Attributes:
        widths: the widths of its blocks.
    """

    def __init__(self, config: Config, widths: Widths) -> None:
        # The parent builds its blocks from one config: give it none to build, then add ours.
        common = config_of_widths(config, widths)
        super().__init__(replace(common, n_layer=0))
        self.config = common
        self.widths = widths
        self.transformer.h = nn.ModuleList(
            Block(block_config(config, widths, index), index) for index in range(widths.layers)
        )


def block_config(config: Config, widths: Widths, index: int) -> Config:
    """The litgpt `Config` of one block: the common fields, with this block's own widths."""
    groups = widths.groups[index]
    return replace(
        config,
        n_layer=widths.layers,
        n_embd=widths.channels,
        n_head=groups * (config.n_head // config.n_query_groups),
        n_query_groups=groups,
        intermediate_size=widths.neurons[index],
    )


def config_of_widths(config: Config, widths: Widths) -> Config:
    """The litgpt `Config` of a network of these widths.

    Says all of a uniform network, and of a layer-wise one what its blocks have in common; there
    the block-wise fields are those of the widest block.
    """
    widest = Widths(widths.channels, (max(widths.groups),), (max(widths.neurons),))
    return replace(block_config(config, widest, 0), n_layer=widths.layers)


def build(config: Config, widths: Widths) -> GPT:
    """A network of these widths, its other fields taken from `config`; weights unset or random."""
    if widths.is_uniform:
        return GPT(config_of_widths(config, widths))
    return LayerwiseGPT(config, widths)


def widths_of(model: GPT) -> Widths:
    """The widths of a network, either kind."""
    blocks = [block.config for block in model.transformer.h]
    return Widths(
        channels=model.config.n_embd,
        groups=tuple(block.n_query_groups for block in blocks),
        neurons=tuple(block.intermediate_size for block in blocks),
    )


def architecture_of(config: Config, *, tied: bool) -> Architecture:
    """The numbers on which cost depends, from a litgpt `Config`."""
    if config.norm_class_name == "RMSNorm":
        norm_parameters = 1
    else:
        norm_parameters = 0 if "OLMo" in config.name else 2
    norms = config.norm_1 + (config.norm_2 and not config.shared_attention_norm)
    norms += config.post_attention_norm + config.post_mlp_norm
    query_key_norm: Literal["none", "head", "heads"] = "none"
    if config.norm_qk:
        query_key_norm = "heads" if config.norm_qk_type == "olmo2" else "head"
    return Architecture(
        dimensions=Dimensions(
            config.n_layer, config.n_embd, config.n_query_groups, config.intermediate_size
        ),
        vocabulary=config.padded_vocab_size,
        head_size=config.head_size,
        queries_per_group=config.n_head // config.n_query_groups,
        mlp_matrices=2 if config.mlp_class_name == "GptNeoxMLP" else 3,
        bias=config.bias,
        attention_bias=config.attn_bias,
        head_bias=config.lm_head_bias,
        tied=tied,
        norm_parameters=norm_parameters,
        norms_per_block=int(norms),
        query_key_norm=query_key_norm,
    )


def is_tied(model: GPT) -> bool:
    """Whether embedding and output head are one matrix."""
    return model.lm_head.weight is model.transformer.wte.weight


def tie(model: GPT) -> None:
    """Make the output head the embedding (litgpt's `GPT` never ties them itself)."""
    model.lm_head.weight = model.transformer.wte.weight


def hidden_states(model: GPT, tokens: Tensor) -> Tensor:
    """What the output head sees: the residual stream after the final norm.

    `GPT.forward` without the head, so that logits need not be held for a whole batch.

    Args:
        model: either kind of network.
        tokens: token ids, shape [B, T].

    Returns:
        Shape [B, T, channels].
    """
    length = tokens.size(1)
    cos, sin = model.cos[:length].unsqueeze(0), model.sin[:length].unsqueeze(0)
    x = model.transformer.wte(tokens)
    if model.config.scale_embeddings:
        x = x * torch.tensor(model.config.n_embd**0.5, dtype=x.dtype)
    for block in model.transformer.h:
        x = block(x, cos, sin, None, None, None)
    return model.transformer.ln_f(x)


def head_logits(model: GPT, hidden: Tensor) -> Tensor:
    """The output head on a part of the hidden states, shape [..., channels] to [..., V]."""
    logits = model.lm_head(hidden)
    if model.config.final_logit_softcapping is not None:
        logits = do_softcapping(logits, model.config.final_logit_softcapping)
    return logits


def tensor_shapes(config: Config, widths: Widths) -> dict[str, Sequence[int]]:
    """The name and shape of every tensor of such a network, without allocating any."""
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in build(config, widths).state_dict().items()}


def named_parameters(name: str) -> int | None:
    """The parameters of a litgpt model, untied as litgpt builds it; None for an unknown name."""
    try:
        config = Config.from_name(name)
    except ValueError:
        return None
    architecture = architecture_of(config, tied=False)
    return parameters(architecture, architecture.full_widths)
