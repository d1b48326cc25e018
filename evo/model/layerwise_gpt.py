"""A litgpt GPT whose blocks may differ in width.

A uniform network is litgpt's own `GPT`. A layer-wise one cannot be said in a litgpt `Config`, but
its `Block` takes any per-block `Config` and `GPT.forward` runs the blocks unchanged. A head size
that is not the teacher's is the same in all blocks, and a `Config` says all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from evo.errors import UserError
from evo.genome.cost import Architecture, Cost
from evo.genome.subnet import Dimensions, Mask, Widths
from evo.model.litgpt import GPT, Block, Config


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
        with_head_size(config, widths.head_size),
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
    most = (max(widths.groups),) * widths.layers, (max(widths.neurons),) * widths.layers
    return block_config(config, replace(widths, groups=most[0], neurons=most[1]), 0)


def config_of_layers(config: Config, layers: Mask) -> Config:
    """The litgpt `Config` of a network that keeps some layers, shape [L]; windows of attention and
    second rotary bases stay with the layers that have them."""

    def kept(indicators: list[int] | None) -> list[int] | None:
        if indicators is None:
            return None
        return [indicator for indicator, keep in zip(indicators, layers, strict=True) if keep]

    return replace(
        config,
        n_layer=int(layers.sum()),
        sliding_window_indices=kept(config.sliding_window_indices),
        rope_indices=kept(config.rope_indices),
    )


def refuse_unknown_parts(config: Config) -> None:
    """Refuse what cannot be cut: mixtures of experts and latent attention.

    Raises:
        UserError: naming the part.
    """
    if config.n_expert or config.mlp_class_name == "LLaMAMoE":
        raise UserError(f"{config.name} is a mixture of experts, which evo cannot cut")
    if config.latent_attention is not None:
        raise UserError(f"{config.name} has multi-head latent attention, which evo cannot cut")


def head_sizes(config: Config) -> list[int]:
    """The sizes to which a teacher's heads can be cut, its own the last.

    The rotary and the other channels of a head are cut in the same proportion, and what is left of
    the rotary ones must be whole pairs. YaRN blends frequencies by a pair's place among all pairs,
    so that they would not stay as they were: there the teacher's own size is the only one.
    """
    size, rotary = config.head_size, config.rope_n_elem
    if "beta_fast" in (config.rope_adjustments or {}):
        return [size]
    return [smaller for smaller in range(1, size) if rotary * smaller % (2 * size) == 0] + [size]


def with_head_size(config: Config, head_size: int | None) -> Config:
    """The litgpt `Config` of a network that keeps the leading channels of every head.

    Pair i of n rotary channels turns by base^(-2i/n) per token (Su et al. 2021, section 3.2.2).
    With n' of them the base is base^(n'/n), so that the kept pairs turn as they did; Llama 3's and
    linear scaling are functions of that frequency alone. Scores are divided by the root of the new
    size (a scalar of the teacher's own shrinks in proportion), which is written down: 5% lower
    perplexity than the teacher's divisor on the embedded teacher with its heads cut in two.

    Raises:
        UserError: the heads cannot be cut to this size.
    """
    if head_size is None or head_size == config.head_size:
        return config
    if head_size not in (valid := head_sizes(config)):
        raise UserError(
            f"heads of {config.head_size} channels, {config.rope_n_elem} of them rotary, cannot be "
            f"cut to {head_size}: give one of {', '.join(map(str, valid))}"
        )
    share = head_size / config.head_size
    local, scalar = config.rope_local_base_freq, config.attention_scores_scalar
    return replace(
        config,
        head_size=head_size,
        rope_base=config.rope_base**share,
        rope_local_base_freq=None if local is None else local**share,
        attention_scores_scalar=head_size if scalar is None else scalar * share,
    )


def build(config: Config, widths: Widths) -> GPT:
    """A network of these widths, its other fields taken from `config`; weights unset or random."""
    if widths.is_uniform:
        return GPT(config_of_widths(config, widths))
    return LayerwiseGPT(config, widths)


def widths_of(model: GPT) -> Widths:
    """The widths of a network, either kind; its head size is that of its config."""
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
    x, rotary = embedded(model, tokens)
    for block in model.transformer.h:
        x = run_block(block, x, rotary)
    return model.transformer.ln_f(x)


def run_block(block: Block, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """What a block makes of the residual stream, shape [B, T, channels].

    `rotary` are the tables that `embedded` gives. Where there are two rotary bases (Gemma 3), the
    block uses that of its own place, whichever blocks run beside it.
    """
    if (indices := block.config.rope_indices) is not None:
        index = indices[block.attn.block_idx]
        rotary = rotary[0][..., index], rotary[1][..., index]
    return block(x, *rotary, None, None, None)


def without_idle_windows(model: GPT, sequence_length: int) -> GPT:
    """The network, whose windows of attention are dropped where no sequence is longer than they.

    litgpt makes the mask of a window row by row, in each block and each forward pass.
    """
    window = model.config.sliding_window_size
    if window is not None and sequence_length <= window:
        for block in model.transformer.h:
            block.attn.apply_sliding_window_attention = False
    return model


def embedded(model: GPT, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """What the first block sees, and the rotary tables that all blocks see.

    Args:
        model: either kind of network.
        tokens: token ids, shape [B, T].

    Returns:
        Shape [B, T, channels]; cosines and sines, shape [1, T, rotary channels of a head] each,
        with a last dimension of 2 where there are two rotary bases.
    """
    length = tokens.size(1)
    x = model.transformer.wte(tokens)
    if model.config.scale_embeddings:
        x = x * torch.tensor(model.config.n_embd**0.5, dtype=x.dtype)
    return x, (model.cos[:length].unsqueeze(0), model.sin[:length].unsqueeze(0))


def tensor_shapes(config: Config, widths: Widths) -> dict[str, Sequence[int]]:
    """The name and shape of every tensor of such a network, without allocating any."""
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in build(config, widths).state_dict().items()}


def named_cost(name: str, cost: Cost) -> int | None:
    """What a litgpt model costs, untied as litgpt builds it; None for an unknown name."""
    try:
        config = Config.from_name(name)
    except ValueError:
        return None
    architecture = architecture_of(config, tied=False)
    return cost.of(architecture, architecture.full_widths)
