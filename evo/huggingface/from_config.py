"""Hugging Face's `config.json` to a litgpt `Config`.

What cannot be said in a litgpt `Config` is refused with the reason, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evo.errors import UserError
from evo.genome.subnet import Widths
from evo.huggingface.from_export import MODEL_TYPE, exported_network
from evo.huggingface.rope_from_config import neox_rope, rope, two_ropes
from evo.huggingface.source_config import FULL, SLIDING, SourceConfig
from evo.model.checkpoint import TIED
from evo.model.layerwise_gpt import architecture_of
from evo.model.litgpt import Config

GELU = {
    "gelu": "none",
    "gelu_python": "none",
    "gelu_new": "tanh",
    "gelu_fast": "tanh",
    "gelu_pytorch_tanh": "tanh",
}
"""Hugging Face's names of what `torch.nn.functional.gelu` computes, and its `approximate`."""

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")

LONGEST = 2**24
"""The longest sequence that a network may be made for, tokens: its rotary tables are that long."""

LARGEST_DEPTH = 100_000
"""Layers: a pattern of windows is a list of so many."""

DEFAULT_WINDOW = 4096
"""Tokens of a window whose size is not said."""


def family_of_source(source: SourceConfig) -> str:
    """`model_type`.

    Raises:
        UserError: it is not one of `FAMILIES`, and no export of ours.
    """
    family = source.fields.get("model_type")
    if family == MODEL_TYPE:
        return MODEL_TYPE
    if not isinstance(family, str) or family not in FAMILIES:
        raise UserError(
            f"{source.path}: model_type {family!r} cannot be imported, only {', '.join(FAMILIES)}"
        )
    return family


def is_tied_source(source: SourceConfig) -> bool:
    """Whether embedding and output head are one matrix; where nothing is said, Gemma's are.

    Raises:
        UserError: it is neither true nor false.
    """
    return source.flag(TIED, default=family_of_source(source).startswith("gemma"))


def litgpt_network(
    source: SourceConfig, vocabulary: int | None, hf_name: str
) -> tuple[Config, Widths]:
    """The litgpt `Config` and the widths of a checkpoint, see `litgpt_config`."""
    if family_of_source(source) == MODEL_TYPE:
        return exported_network(source, vocabulary, hf_name)
    config = litgpt_config(source, vocabulary, hf_name)
    return config, architecture_of(config, tied=False).full_widths


def litgpt_config(source: SourceConfig, vocabulary: int | None, hf_name: str) -> Config:
    """The litgpt `Config` that computes what the checkpoint computes.

    Its `name` is the family, in the spelling on which litgpt dispatches.

    Args:
        source: the checkpoint's `config.json`.
        vocabulary: the tokenizer's largest id + 1; None where there is no tokenizer.
        hf_name: where the checkpoint comes from, kept in `Config.hf_config`.

    Raises:
        UserError: an unknown family, or something in it that a litgpt `Config` cannot say.
    """
    family = FAMILIES[family_of_source(source)]
    if "quantization_config" in source.fields:
        raise source.refusal("its weights are quantised: give the unquantised checkpoint")
    if any(source.fields.get(name) for name in EXPERTS):
        raise source.refusal("it is a mixture of experts")
    heads, width = source.size("num_attention_heads"), source.size("hidden_size")
    fields = family(source)
    if "head_size" not in fields and not source.has("head_dim") and width % heads:
        raise source.refusal(f"hidden_size {width} is no multiple of num_attention_heads {heads}")
    rows = source.size("vocab_size")
    common = {
        "hf_config": {"name": hf_name, TIED: is_tied_source(source)},
        "block_size": source.size("max_position_embeddings", most=LONGEST),
        "n_layer": source.size("num_hidden_layers", most=LARGEST_DEPTH),
        "n_embd": width,
        "n_head": heads,
        "head_size": source.size("head_dim", default=max(1, width // heads)),
        "intermediate_size": source.size("intermediate_size"),
        "vocab_size": min(vocabulary or rows, rows),
        "padded_vocab_size": rows,
    }
    return Config(**{**common, **fields})


def _gpt_neox(source: SourceConfig) -> dict[str, Any]:
    """GPT-NeoX, Pythia: LayerNorm, biases everywhere, a plain MLP, rotary on a part of a head."""
    if not source.flag("attention_bias", True):
        raise source.refusal("litgpt's GPT-NeoX has no attention without biases")
    if source.has("head_dim"):
        raise source.refusal("GPT-NeoX has no head_dim of its own")
    return {
        "name": "gpt-neox",
        "norm_class_name": "LayerNorm",
        "norm_eps": source.number("layer_norm_eps", 1e-5),
        "mlp_class_name": "GptNeoxMLP",
        "gelu_approximate": _gelu(source, "GPT-NeoX", source.text("hidden_act", "gelu")),
        "parallel_residual": source.flag("use_parallel_residual", True),
        "bias": True,
        **neox_rope(source),
    }


def _gelu(source: SourceConfig, name: str, activation: str) -> str:
    if activation not in GELU:
        raise source.refusal(
            f"litgpt's {name} knows the activations {', '.join(GELU)}, not {activation}"
        )
    return GELU[activation]


def _llama(source: SourceConfig) -> dict[str, Any]:
    attention, mlp = source.flag("attention_bias"), source.flag("mlp_bias")
    if attention != mlp:
        raise source.refusal(
            f"attention_bias is {attention} and mlp_bias {mlp}: litgpt has both or none"
        )
    return {**_swiglu(source, "Llama"), "bias": attention}


def _mistral(source: SourceConfig) -> dict[str, Any]:
    # transformers' default where nothing is said; null is no window
    has_window = source.fields.get("sliding_window", DEFAULT_WINDOW) is not None
    layers = [has_window] * source.size("num_hidden_layers", most=LARGEST_DEPTH)
    return {**_swiglu(source, "Mistral"), **_windows(source, layers)}


def _qwen2(source: SourceConfig) -> dict[str, Any]:
    return {**_swiglu(source, "Qwen2.5"), "attn_bias": True, **_qwen_windows(source)}


def _qwen3(source: SourceConfig) -> dict[str, Any]:
    _refuse_attention_bias(source)
    if not source.has("head_dim"):
        raise source.refusal("head_dim is missing")
    return {**_swiglu(source, "Qwen3"), "norm_qk": True, **_qwen_windows(source)}


def _olmo2(source: SourceConfig) -> dict[str, Any]:
    """OLMo 2: norms after attention and MLP instead of before, and over all queries and keys."""
    _refuse_attention_bias(source)
    return {
        **_swiglu(source, "OLMo-2-"),
        "norm_1": False,
        "norm_2": False,
        "post_attention_norm": True,
        "post_mlp_norm": True,
        "norm_qk": True,
        "norm_qk_type": "olmo2",
    }


def _gemma(source: SourceConfig) -> dict[str, Any]:
    return {**_geglu(source, "Gemma", legacy="hidden_act"), **rope(source)}


def _gemma2(source: SourceConfig) -> dict[str, Any]:
    """Gemma 2: norms before and after, soft capping, a window in every other layer."""
    layers = source.size("num_hidden_layers", most=LARGEST_DEPTH)
    alternating = [FULL if index % 2 else SLIDING for index in range(layers)]
    return {
        **_geglu(source, "Gemma-2"),
        **rope(source),
        **_norms_around(source),
        "attention_logit_softcapping": source.optional_number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": source.optional_number("final_logit_softcapping", 30.0),
        **_windows(source, source.layer_types(alternating)),
    }


def _gemma3(source: SourceConfig) -> dict[str, Any]:
    """Gemma 3's text model: norms of queries and keys too, and a rotary base of its own for the
    layers with a window, five of six."""
    layers = source.size("num_hidden_layers", most=LARGEST_DEPTH)
    pattern = source.size("sliding_window_pattern", default=6)
    repeated = [SLIDING if (index + 1) % pattern else FULL for index in range(layers)]
    near = source.layer_types(repeated)
    return {
        **_geglu(source, "Gemma-3"),
        **two_ropes(source),
        **_norms_around(source),
        "norm_qk": True,
        "rope_indices": [int(is_near) for is_near in near],
        "attention_logit_softcapping": source.optional_number("attn_logit_softcapping"),
        "final_logit_softcapping": source.optional_number("final_logit_softcapping"),
        **_windows(source, near),
    }


def _norms_around(source: SourceConfig) -> dict[str, Any]:
    """Norms before and after attention and MLP, and a divisor of attention scores of its own."""
    scalar = source.number("query_pre_attn_scalar", 256)
    return {
        "post_attention_norm": True,
        "post_mlp_norm": True,
        "attention_scores_scalar": int(scalar) if scalar == int(scalar) else scalar,
    }


def _geglu(source: SourceConfig, name: str, legacy: str | None = None) -> dict[str, Any]:
    """What Gemma's generations share: scaled embeddings, norms whose weight is stored less one,
    a gated MLP with GELU."""
    _refuse_attention_bias(source)
    if source.flag("use_bidirectional_attention"):
        raise source.refusal("its attention sees what follows")
    default = source.text(legacy, "gelu_pytorch_tanh") if legacy else "gelu_pytorch_tanh"
    return {
        **_grouped(source, name),
        "mlp_class_name": "GemmaMLP",
        "gelu_approximate": _gelu(source, name, source.text("hidden_activation", default)),
        "scale_embeddings": True,
        "head_size": source.size("head_dim", default=256),
    }


def _swiglu(source: SourceConfig, name: str) -> dict[str, Any]:
    """What Llama and its descendants share: a gated MLP with SiLU."""
    activation = source.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise source.refusal(f"litgpt's {name} knows the activation silu, not {activation}")
    return {**_grouped(source, name), "mlp_class_name": "LLaMAMLP", **rope(source)}


def _grouped(source: SourceConfig, name: str) -> dict[str, Any]:
    """RMSNorm, grouped queries, no biases."""
    heads = source.size("num_attention_heads")
    groups = source.size("num_key_value_heads", default=heads)
    if heads % groups:
        raise source.refusal(
            f"num_attention_heads {heads} is no multiple of num_key_value_heads {groups}"
        )
    return {
        "name": name,
        "norm_class_name": "RMSNorm",
        "norm_eps": source.number("rms_norm_eps", 1e-6),
        "parallel_residual": False,
        "n_query_groups": groups,
        "bias": False,
    }


def _windows(source: SourceConfig, layers: list[bool]) -> dict[str, Any]:
    """The layers that see a window alone; none where no sequence is longer than it."""
    if not any(layers):
        return {}
    window = source.size("sliding_window", default=DEFAULT_WINDOW)
    if window >= source.size("max_position_embeddings", most=LONGEST):
        return {}
    return {
        "sliding_window_size": window,
        "sliding_window_indices": [int(is_near) for is_near in layers],
    }


def _qwen_windows(source: SourceConfig) -> dict[str, Any]:
    """Windows where `use_sliding_window` says so, in layers from `max_window_layers` on."""
    layers = source.size("num_hidden_layers", most=LARGEST_DEPTH)
    listed = source.layer_types([FULL] * layers)
    if not source.flag("use_sliding_window"):
        if any(listed):
            raise source.refusal("layer_types has windows, but use_sliding_window is not true")
        return {}
    if not source.has("layer_types"):
        first = source.fields.get("max_window_layers", 28)
        if type(first) is not int or first < 0:
            raise UserError(
                f"{source.path}: max_window_layers is {first!r}, but a number of layers is needed"
            )
        listed = [index >= first for index in range(layers)]
    return _windows(source, listed)


def _refuse_attention_bias(source: SourceConfig) -> None:
    if source.flag("attention_bias"):
        raise source.refusal("litgpt has no attention_bias without biases in the MLP")


FAMILIES: dict[str, Callable[[SourceConfig], dict[str, Any]]] = {
    "gpt_neox": _gpt_neox,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "olmo2": _olmo2,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
}
"""The model types that can be imported."""
