"""The rotary embedding of a Hugging Face `config.json` as fields of a litgpt `Config`.

Both dialects are read: transformers 5 writes `rope_parameters`, older versions `rope_theta`,
`rope_scaling`, `rotary_pct`, `rotary_emb_base` and `rope_local_base_freq`.
"""

from __future__ import annotations

from typing import Any

from evo.huggingface.source_config import FULL, SLIDING, SourceConfig

ROPE_OBJECTS = ("rope_parameters", "rope_scaling")


def rope(source: SourceConfig) -> dict[str, Any]:
    """Base and scaling of a rotary embedding that turns whole heads, the same in all layers.

    Raises:
        UserError: it is another, or no such thing.
    """
    parameters = _parameters(source)
    share = parameters.get("partial_rotary_factor", source.fields.get("partial_rotary_factor"))
    if share is not None and source.positive("partial_rotary_factor", share) != 1:
        raise source.refusal(f"its rotary embedding turns only {share} of each head")
    return {
        "rope_base": _base(source, parameters, "rope_theta"),
        "rotary_percentage": 1.0,
        "rope_adjustments": _adjustments(source, parameters),
    }


def neox_rope(source: SourceConfig) -> dict[str, Any]:
    """GPT-NeoX's, which turns a share of each head.

    Raises:
        UserError: it is no such thing.
    """
    parameters = _parameters(source)
    share = parameters.get("partial_rotary_factor", source.fields.get("partial_rotary_factor"))
    share = source.fields.get("rotary_pct", 0.25 if share is None else share)
    share = source.positive("rotary_pct", share)
    if share > 1:
        raise source.refusal(f"rotary_pct is {share}, more than a whole head")
    return {
        "rope_base": _base(source, parameters, "rotary_emb_base"),
        "rotary_percentage": share,
        "rope_adjustments": _adjustments(source, parameters),
    }


def two_ropes(source: SourceConfig) -> dict[str, Any]:
    """Gemma 3's: a base for layers that see everything, and another for those with a window.

    Raises:
        UserError: it is no such thing.
    """
    parameters = source.group("rope_parameters")
    whole, near = (parameters.get(kind) or {} for kind in (FULL, SLIDING))
    if not isinstance(whole, dict) or not isinstance(near, dict):
        raise source.refusal("rope_parameters has no objects of settings for its kinds of layers")
    if _adjustments(source, near) is not None:
        raise source.refusal("the rotary embedding of its layers with a window is scaled")
    whole = {**source.group("rope_scaling"), **whole}
    return {
        "rope_base": _base(source, whole, "rope_theta", 1_000_000),
        "rope_local_base_freq": _base(source, near, "rope_local_base_freq", 10_000),
        "rotary_percentage": 1.0,
        "rope_adjustments": _adjustments(source, whole),
    }


def _parameters(source: SourceConfig) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for name in reversed(ROPE_OBJECTS):
        parameters |= source.group(name)
    if any(isinstance(value, dict) for value in parameters.values()):
        raise source.refusal("it has different rotary embeddings in different layers")
    return parameters


def _base(
    source: SourceConfig, parameters: dict[str, Any], name: str, default: int = 10_000
) -> float:
    base = parameters.get("rope_theta")
    base = source.positive(name, source.fields.get(name, default) if base is None else base)
    return int(base) if base == int(base) else base


def _adjustments(source: SourceConfig, parameters: dict[str, Any]) -> dict[str, Any] | None:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return None
    if kind not in ("linear", "llama3"):
        raise source.refusal(
            f"its rotary scaling is {kind!r}: default, linear and llama3 are known"
        )
    names = ["factor"] if kind == "linear" else ["factor", "low_freq_factor", "high_freq_factor"]
    adjustments = {name: source.positive(f"rope's {name}", parameters.get(name)) for name in names}
    if kind == "llama3":
        original = "original_max_position_embeddings"
        length = source.fields.get(original) or parameters.get(original)
        adjustments["original_max_seq_len"] = source.positive(
            original, length or source.size("max_position_embeddings")
        )
    return adjustments
