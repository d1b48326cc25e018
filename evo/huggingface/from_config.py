"""Hugging Face's `config.json` to a litgpt `Config`.

Both dialects are read: transformers 5 writes `rope_parameters`, older versions `rope_theta`,
`rope_scaling`, `rotary_pct` and `rotary_emb_base`. What cannot be said in a litgpt `Config` is
refused with the reason, never dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evo.errors import UserError
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


@dataclass(frozen=True)
class SourceConfig:
    """The content of a `config.json`.

    Attributes:
        path: the file, for messages.
        fields: as they stand in it.
    """

    path: Path
    fields: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> SourceConfig:
        """The config in a file.

        Raises:
            UserError: the file is not there, or is no JSON object.
        """
        if not path.is_file():
            raise UserError(
                f"{path.parent} has no config.json: name a Hugging Face checkpoint directory"
            )
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise UserError(f"{path} is no JSON object of settings")
        return cls(path, fields)

    @property
    def family(self) -> str:
        """`model_type`.

        Raises:
            UserError: it is not one of `FAMILIES`.
        """
        family = self.fields.get("model_type")
        if family not in FAMILIES:
            raise UserError(
                f"{self.path}: model_type {family!r} cannot be imported, only {', '.join(FAMILIES)}"
            )
        return family

    @property
    def tied(self) -> bool:
        """Whether embedding and output head are one matrix; not so where nothing is said."""
        return bool(self.fields.get("tie_word_embeddings", False))

    def size(self, name: str, default: int | None = None) -> int:
        """A positive integer.

        Raises:
            UserError: it is missing and has no default, or is something else.
        """
        value = self.fields.get(name)
        value = default if value is None else value
        if type(value) is not int or value < 1:
            raise UserError(f"{self.path}: {name} is {value!r}, but a positive integer is needed")
        return value

    def number(self, name: str) -> float:
        """A positive number.

        Raises:
            UserError: it is missing, or is something else.
        """
        return self.positive(name, self.fields.get(name))

    def positive(self, name: str, value: Any) -> float:
        """A value that must be a positive number, with the name that a message gives it.

        Raises:
            UserError: it is something else.
        """
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise UserError(f"{self.path}: {name} is {value!r}, but a positive number is needed")
        return value

    def refusal(self, reason: str) -> UserError:
        """The error that says why this checkpoint cannot be imported."""
        return UserError(f"{self.path}: cannot be imported, {reason}")


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
    family = FAMILIES[source.family]
    if "quantization_config" in source.fields:
        raise source.refusal("its weights are quantised: give the unquantised checkpoint")
    if any(source.fields.get(name) for name in EXPERTS):
        raise source.refusal("it is a mixture of experts")
    heads, width = source.size("num_attention_heads"), source.size("hidden_size")
    if source.fields.get("head_dim") is None and width % heads:
        raise source.refusal(f"hidden_size {width} is no multiple of num_attention_heads {heads}")
    rows = source.size("vocab_size")
    common = {
        "hf_config": {"name": hf_name},
        "block_size": source.size("max_position_embeddings"),
        "n_layer": source.size("num_hidden_layers"),
        "n_embd": width,
        "n_head": heads,
        "head_size": source.size("head_dim", default=width // heads),
        "intermediate_size": source.size("intermediate_size"),
        "vocab_size": min(vocabulary or rows, rows),
        "padded_vocab_size": rows,
    }
    return Config(**common, **family(source))


def _gpt_neox(source: SourceConfig) -> dict[str, Any]:
    """GPT-NeoX, Pythia: LayerNorm, biases everywhere, a plain MLP, rotary on a part of a head."""
    activation = source.fields.get("hidden_act", "gelu")
    if activation not in GELU:
        raise source.refusal(
            f"litgpt's GPT-NeoX knows the activations {', '.join(GELU)}, not {activation}"
        )
    if not source.fields.get("attention_bias", True):
        raise source.refusal("litgpt's GPT-NeoX has no attention without biases")
    if source.fields.get("head_dim") is not None:
        raise source.refusal("GPT-NeoX has no head_dim of its own")
    return {
        "name": "gpt-neox",
        "norm_class_name": "LayerNorm",
        "norm_eps": source.number("layer_norm_eps"),
        "mlp_class_name": "GptNeoxMLP",
        "gelu_approximate": GELU[activation],
        "parallel_residual": bool(source.fields.get("use_parallel_residual", True)),
        "bias": True,
        **_rope(source),
    }


def _llama(source: SourceConfig) -> dict[str, Any]:
    attention, mlp = (bool(source.fields.get(f"{part}_bias")) for part in ("attention", "mlp"))
    if attention != mlp:
        raise source.refusal(
            f"attention_bias is {attention} and mlp_bias {mlp}: litgpt has both or none"
        )
    return {**_gated(source, "Llama"), "bias": attention}


def _mistral(source: SourceConfig) -> dict[str, Any]:
    window = source.fields.get("sliding_window", 4096)  # transformers' default where it is absent
    if window is not None and window < source.size("max_position_embeddings"):
        raise source.refusal(f"it has a sliding window of {window} tokens")
    return _gated(source, "Mistral")


def _qwen2(source: SourceConfig) -> dict[str, Any]:
    _refuse_sliding_layers(source)
    return {**_gated(source, "Qwen2.5"), "attn_bias": True}


def _qwen3(source: SourceConfig) -> dict[str, Any]:
    _refuse_sliding_layers(source)
    _refuse_attention_bias(source)
    if source.fields.get("head_dim") is None:
        raise source.refusal("head_dim is missing")
    return {**_gated(source, "Qwen3"), "norm_qk": True}


def _olmo2(source: SourceConfig) -> dict[str, Any]:
    """OLMo 2: norms after attention and MLP instead of before, and over all queries and keys."""
    _refuse_attention_bias(source)
    return {
        **_gated(source, "OLMo-2-"),
        "norm_1": False,
        "norm_2": False,
        "post_attention_norm": True,
        "post_mlp_norm": True,
        "norm_qk": True,
        "norm_qk_type": "olmo2",
    }


def _gated(source: SourceConfig, name: str) -> dict[str, Any]:
    """What Llama and its descendants share: RMSNorm, SwiGLU, grouped queries, no biases."""
    activation = source.fields.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise source.refusal(f"litgpt's {name} knows the activation silu, not {activation}")
    heads = source.size("num_attention_heads")
    groups = source.size("num_key_value_heads", default=heads)
    if heads % groups:
        raise source.refusal(
            f"num_attention_heads {heads} is no multiple of num_key_value_heads {groups}"
        )
    return {
        "name": name,
        "norm_class_name": "RMSNorm",
        "norm_eps": source.number("rms_norm_eps"),
        "mlp_class_name": "LLaMAMLP",
        "parallel_residual": False,
        "n_query_groups": groups,
        "bias": False,
        **_rope(source),
    }


def _refuse_sliding_layers(source: SourceConfig) -> None:
    layers = source.size("num_hidden_layers")
    from_layer = source.fields.get("max_window_layers", 0)
    if "sliding_attention" in (source.fields.get("layer_types") or ()) or (
        source.fields.get("use_sliding_window") and from_layer < layers
    ):
        raise source.refusal("it has layers with a sliding window")


def _refuse_attention_bias(source: SourceConfig) -> None:
    if source.fields.get("attention_bias"):
        raise source.refusal("litgpt has no attention_bias without biases in the MLP")


def _rope(source: SourceConfig) -> dict[str, Any]:
    """Base, share of the head and frequency scaling of the rotary embedding."""
    fields = source.fields
    rope = dict(fields.get("rope_parameters") or fields.get("rope_scaling") or {})
    if any(isinstance(value, dict) for value in rope.values()):
        raise source.refusal("it has different rotary embeddings in different layers")
    neox = source.family == "gpt_neox"
    base = rope.get("rope_theta", fields.get("rotary_emb_base" if neox else "rope_theta", 10000))
    base = source.positive("rope_theta", base)
    share = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor"))
    if neox:
        share = fields.get("rotary_pct", 0.25 if share is None else share)
    elif share not in (None, 1):
        raise source.refusal(f"its rotary embedding turns only {share} of each head")
    return {
        "rope_base": int(base) if base == int(base) else base,
        "rotary_percentage": source.positive("rotary_pct", share) if neox else 1.0,
        "rope_adjustments": _rope_adjustments(source, rope),
    }


def _rope_adjustments(source: SourceConfig, rope: dict[str, Any]) -> dict[str, Any] | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind not in ("linear", "llama3"):
        raise source.refusal(
            f"its rotary scaling is {kind!r}: default, linear and llama3 are known"
        )
    names = ["factor"] if kind == "linear" else ["factor", "low_freq_factor", "high_freq_factor"]
    adjustments = {name: source.positive(f"rope's {name}", rope.get(name)) for name in names}
    if kind == "llama3":
        original = "original_max_position_embeddings"
        adjustments["original_max_seq_len"] = source.fields.get(original) or rope.get(
            original, source.size("max_position_embeddings")
        )
    return adjustments


FAMILIES: dict[str, Callable[[SourceConfig], dict[str, Any]]] = {
    "gpt_neox": _gpt_neox,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "olmo2": _olmo2,
}
"""The model types that can be imported."""
