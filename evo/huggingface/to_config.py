"""A litgpt network in a family of transformers: the way back from `evo.huggingface.from_config`.

What a litgpt `Config` can say and a family cannot is refused with the reason, never dropped.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from evo.errors import UserError
from evo.genome.subnet import Widths
from evo.huggingface.source_config import FULL, SLIDING
from evo.model.litgpt import Config

SAID = {
    "name", "hf_config", "block_size", "n_layer", "n_embd", "vocab_size", "padding_multiple",
    "padded_vocab_size", "norm_class_name", "norm_eps", "norm_qk", "norm_qk_type",
    "post_attention_norm", "post_mlp_norm", "parallel_residual", "n_head", "head_size",
    "n_query_groups", "attn_bias", "attention_scores_scalar", "rope_base", "rotary_percentage",
    "rope_adjustments", "intermediate_size", "bias", "mlp_class_name", "gelu_approximate",
    "norm_1", "norm_2", "scale_embeddings", "attention_logit_softcapping",
    "final_logit_softcapping", "sliding_window_size", "sliding_window_indices",
    "rope_local_base_freq", "rope_indices",
}  # fmt: skip
"""The fields of a litgpt `Config` that an export can say; any other must have its default."""

BEFORE, AFTER, AROUND = (True, True, False, False), (False, False, True, True), (True,) * 4
FAMILIES = {
    ("GptNeoxMLP", "LayerNorm", BEFORE, "none", "all"): "gpt_neox",
    ("LLaMAMLP", "RMSNorm", BEFORE, "none", "none"): "llama",
    ("LLaMAMLP", "RMSNorm", BEFORE, "none", "all"): "llama",
    ("LLaMAMLP", "RMSNorm", BEFORE, "none", "attention"): "qwen2",
    ("LLaMAMLP", "RMSNorm", BEFORE, "default", "none"): "qwen3",
    ("LLaMAMLP", "RMSNorm", AFTER, "olmo2", "none"): "olmo2",
    ("GemmaMLP", "RMSNorm", BEFORE, "none", "none"): "gemma",
    ("GemmaMLP", "RMSNorm", AROUND, "none", "none"): "gemma2",
    ("GemmaMLP", "RMSNorm", AROUND, "default", "none"): "gemma3_text",
}
"""The `model_type` by MLP, norms, where those are, the norm of queries and keys, and biases."""

CLASSES = {
    "gpt_neox": "GPTNeoXForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
"""The class of transformers for each `model_type`."""


def refuse_unsaid(config: Config) -> None:
    """Refuse what no export can say: biases of the head, experts and so on.

    Raises:
        UserError: naming the field.
    """
    for field in fields(Config):
        value = getattr(config, field.name)
        if field.name not in SAID and value != field.default:
            raise UserError(f"no export can say {field.name} {value!r} of {config.name}")
    if config.mlp_class_name not in ("GptNeoxMLP", "LLaMAMLP", "GemmaMLP"):
        raise UserError(f"no export can say the {config.mlp_class_name} of {config.name}")
    if config.norm_class_name == "LayerNorm" and "OLMo" in config.name:
        raise UserError(f"no export can say the norms of {config.name}")
    if config.rope_n_elem % 2:
        raise UserError(f"no export can rotate an odd number of channels, {config.rope_n_elem}")


def rope_parameters(config: Config) -> dict[str, Any]:
    """The rotary embedding's base and scaling as transformers 5 writes them.

    Raises:
        UserError: a scaling other than linear or Llama 3's.
    """
    adjustments = dict(config.rope_adjustments or {})
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": float(config.rope_base)}
    if not adjustments:
        return parameters
    kinds = {
        frozenset({"factor"}): "linear",
        frozenset(
            {"factor", "low_freq_factor", "high_freq_factor", "original_max_seq_len"}
        ): "llama3",
    }
    kind = kinds.get(frozenset(adjustments))
    if kind is None:
        raise UserError(f"no export can say the rope_adjustments {adjustments}")
    length = adjustments.pop("original_max_seq_len", None)
    parameters |= {name: float(value) for name, value in adjustments.items()}
    if length is not None:
        parameters["original_max_position_embeddings"] = int(length)
    return parameters | {"rope_type": kind}


def family_of(config: Config) -> str:
    """The `model_type` whose class in transformers computes what litgpt does, widths aside.

    From transformers 5.4 on LlamaForCausalLM refuses channels that are no multiple of the heads,
    which it can compute with; MistralForCausalLM, the same without biases, does not.

    Raises:
        UserError: there is none.
    """
    refuse_unsaid(config)
    rope_parameters(config)
    shape = (
        config.mlp_class_name,
        config.norm_class_name,
        (config.norm_1, config.norm_2, config.post_attention_norm, config.post_mlp_norm),
        config.norm_qk_type if config.norm_qk else "none",
        "all" if config.bias else "attention" if config.attn_bias else "none",
    )
    family = FAMILIES.get(shape)
    if family is None:
        raise UserError(f"no class of transformers computes what {config.name} does")
    if family != "gpt_neox" and config.parallel_residual:
        raise UserError(f"{CLASSES[family]} has attention and MLP one after the other")
    if family != "gpt_neox" and config.rope_n_elem < config.head_size:
        raise UserError(f"{CLASSES[family]} rotates heads as a whole")
    if family == "gpt_neox" and config.n_query_groups != config.n_head:
        raise UserError("GPTNeoXForCausalLM has no grouped queries")
    _refuse_of_gemma_alone(config, family)
    has_divisor = family in ("gemma2", "gemma3_text")
    if (config.attention_scores_scalar or config.head_size) != config.head_size and not has_divisor:
        raise UserError(
            f"{CLASSES[family]} divides attention scores by the root of the head size "
            f"({config.head_size}), not of {config.attention_scores_scalar:g}"
        )
    if family == "llama" and not config.bias:
        is_uneven = config.n_embd % config.n_head > 0
        is_mistral = is_uneven or config.name.startswith("Mistral") or any(windows(config))
        family = "mistral" if is_mistral else family
    _refuse_windows(config, family)
    return family


def has_unit_offset(config: Config) -> bool:
    """Whether the weights of norms are stored less one; litgpt goes by the name."""
    return config.norm_class_name == "RMSNorm" and "Gemma" in config.name


def windows(config: Config) -> list[bool]:
    """For each layer, whether its queries see a window alone."""
    if config.sliding_window_size is None or config.sliding_window_indices is None:
        return [False] * config.n_layer
    return [bool(indicator) for indicator in config.sliding_window_indices]


def _refuse_of_gemma_alone(config: Config, family: str) -> None:
    is_gemma = family.startswith("gemma")
    name = CLASSES[family]
    if (config.scale_embeddings, has_unit_offset(config)) != (is_gemma, is_gemma):
        raise UserError(f"{name} cannot say the embeddings or the norms of {config.name}")
    capped = (config.attention_logit_softcapping, config.final_logit_softcapping)
    if capped != (None, None) and family not in ("gemma2", "gemma3_text"):
        raise UserError(f"{name} has no soft capping")
    if (config.rope_local_base_freq is not None) != (family == "gemma3_text"):
        raise UserError(f"{name} has another number of rotary bases than {config.name}")


def _refuse_windows(config: Config, family: str) -> None:
    near, name = windows(config), CLASSES[family]
    if not any(near):
        return
    if family not in ("mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"):
        raise UserError(f"{name} has no sliding window")
    if family == "mistral" and not all(near):
        raise UserError(f"{name} has a sliding window in all layers or in none")
    if family == "gemma3_text" and near != [bool(index) for index in config.rope_indices or []]:
        raise UserError(f"{name} has its second rotary base where it has a sliding window")


def wants_whole_heads(config: Config) -> bool:
    """Whether a search must keep to whole heads' worth of channels, for what it finds in a
    teacher to be something that the family's class can say (see `evo.genome.width_limits`).

    Raises:
        UserError: there is no class, or what it wants is nothing that a search can keep to.
    """
    family = family_of(config)
    if family == "llama" and config.bias:
        raise UserError(
            f"{CLASSES[family]} has biases only where its channels are a multiple of its heads, "
            "to which a search cannot keep"
        )
    return family == "gpt_neox"


def native_heads(config: Config, widths: Widths) -> int:
    """How many heads the network has in its family's own class; more than of its own where GPT-NeoX
    must have some that give nothing.

    Raises:
        UserError: the family's class cannot say these widths.
    """
    family = family_of(config)
    name, size = CLASSES[family], config.head_size
    if not widths.is_uniform:
        raise UserError(f"its layers differ in width, but {name} has all alike")
    if family == "llama" and widths.channels % config.n_head:
        raise UserError(
            f"its {widths.channels} channels are no multiple of its {config.n_head} heads, but "
            f"{name}, which alone has its biases, refuses others from transformers 5.4 on"
        )
    if family != "gpt_neox":
        return config.n_head
    if widths.channels % size:
        raise UserError(
            f"its {widths.channels} channels are no multiple of its head size {size}, but {name} "
            "has heads of hidden_size / num_attention_heads channels"
        )
    if config.n_head * size > widths.channels:
        raise UserError(
            f"its {config.n_head} heads have {config.n_head * size} channels, but in {name} they "
            f"have as many as the residual stream, here {widths.channels}"
        )
    return widths.channels // size


def native_config(config: Config, widths: Widths, *, tied: bool) -> dict[str, Any]:
    """The `config.json` of the network in its family's own class.

    Raises:
        UserError: the class cannot say it.
    """
    family, heads = family_of(config), native_heads(config, widths)
    rope = rope_parameters(config)
    said: dict[str, Any] = {
        "model_type": family,
        "architectures": [CLASSES[family]],
        "vocab_size": config.padded_vocab_size,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.block_size,
        "tie_word_embeddings": tied,
    }
    if family == "gpt_neox":
        return said | {
            "hidden_act": hidden_act(config),
            "layer_norm_eps": config.norm_eps,
            "rotary_emb_base": rope["rope_theta"],
            "rope_scaling": _scaling(rope),
            "use_parallel_residual": config.parallel_residual,
            "rotary_pct": config.rotary_percentage,  # transformers 5.3 reads it only here
            "rope_parameters": rope | {"partial_rotary_factor": config.rotary_percentage},
        }
    said |= {
        "num_key_value_heads": config.n_query_groups,
        "head_dim": config.head_size,
        "hidden_act": hidden_act(config),
        "rms_norm_eps": config.norm_eps,
        "rope_theta": rope["rope_theta"],
        "rope_scaling": _scaling(rope),
        "rope_parameters": rope,
    }
    if family == "llama":
        said |= {"attention_bias": config.bias, "mlp_bias": config.bias}
    elif family == "mistral":
        said["sliding_window"] = config.sliding_window_size if any(windows(config)) else None
    elif family in ("qwen2", "qwen3"):
        said |= {"use_sliding_window": any(windows(config))} | _layer_types(config)
    elif family.startswith("gemma"):
        said |= _of_gemma(config, family, rope)
    return said


def _scaling(rope: dict[str, Any]) -> dict[str, Any] | None:
    """The scaling alone, as transformers 4 has it."""
    rest = {name: value for name, value in rope.items() if name != "rope_theta"}
    return None if rest["rope_type"] == "default" else rest


def _layer_types(config: Config) -> dict[str, Any]:
    near = windows(config)
    if not any(near) and config.rope_indices is not None:  # windows that no sequence fills
        near = [bool(index) for index in config.rope_indices]
    return {
        "sliding_window": config.sliding_window_size or config.block_size,
        "layer_types": [SLIDING if is_near else FULL for is_near in near],
    }


def _of_gemma(config: Config, family: str, rope: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"hidden_activation": hidden_act(config)}
    if family == "gemma":
        return said
    said |= {
        "query_pre_attn_scalar": config.attention_scores_scalar or config.head_size,
        "attn_logit_softcapping": config.attention_logit_softcapping,
        "final_logit_softcapping": config.final_logit_softcapping,
        **_layer_types(config),
    }
    if family == "gemma3_text":
        assert config.rope_local_base_freq is not None
        near = float(config.rope_local_base_freq)
        local = {"rope_type": "default", "rope_theta": near}
        said |= {
            "rope_local_base_freq": near,
            "rope_parameters": {FULL: rope, SLIDING: local},
        }
    return said


def hidden_act(config: Config) -> str:
    """The activation of the MLP by transformers' name."""
    if config.mlp_class_name == "LLaMAMLP":
        return "silu"
    return {"none": "gelu", "tanh": "gelu_pytorch_tanh"}[config.gelu_approximate]
