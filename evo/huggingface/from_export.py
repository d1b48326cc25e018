"""The way back from what `evo export` wrote with its modelling file, as it was or trained since."""

from __future__ import annotations

import math
from typing import Any

from evo.errors import UserError
from evo.genome.subnet import Widths
from evo.huggingface.rope_from_config import rope
from evo.huggingface.source_config import SourceConfig
from evo.model.checkpoint import TIED
from evo.model.litgpt import Config

MODEL_TYPE = "evo"
"""The `model_type` of an export with a modelling file."""

GELU = {"gelu": "none", "gelu_pytorch_tanh": "tanh"}


def exported_network(
    source: SourceConfig, vocabulary: int | None, hf_name: str
) -> tuple[Config, Widths]:
    """The litgpt `Config` and the widths of an export, blocks of different widths included.

    Args:
        source: the export's `config.json`.
        vocabulary: the tokenizer's largest id + 1; None where there is no tokenizer.
        hf_name: where it comes from, kept in `Config.hf_config`.

    Raises:
        UserError: the file says something that no export writes.
    """
    groups, neurons = source.sizes("query_groups"), source.sizes("intermediate_sizes")
    layers, each = len(groups), source.size("queries_per_group")
    if len(neurons) != layers:
        raise source.refusal(f"it has groups of {layers} blocks, but neurons of {len(neurons)}")
    head, rows = source.size("head_dim"), source.size("vocab_size")
    query_key_norm = source.text("query_key_norm", "none")
    config = Config(
        name="Gemma-export" if source.flag("unit_offset") else "evo-export",
        hf_config={"name": hf_name, TIED: source.flag(TIED)},
        block_size=source.size("max_position_embeddings"),
        n_layer=layers,
        n_embd=source.size("hidden_size"),
        n_head=max(groups) * each,
        n_query_groups=max(groups),
        head_size=head,
        intermediate_size=max(neurons),
        vocab_size=min(vocabulary or rows, rows),
        padded_vocab_size=rows,
        norm_class_name=source.choice("norm", ("LayerNorm", "RMSNorm")),
        norm_eps=source.number("norm_eps"),
        norm_1=source.flag("pre_norm"),
        norm_2=source.flag("pre_norm"),
        post_attention_norm=source.flag("post_norm"),
        post_mlp_norm=source.flag("post_norm"),
        norm_qk=query_key_norm != "none",
        norm_qk_type="olmo2" if query_key_norm == "heads" else "default",
        parallel_residual=source.flag("parallel_residual"),
        attn_bias=source.flag("attention_bias") and not source.flag("bias"),
        bias=source.flag("bias"),
        attention_logit_softcapping=source.optional_number("attention_softcap"),
        final_logit_softcapping=source.optional_number("logit_softcap"),
        **_mlp(source),
        **_rotary(source, head),
        **_attention(source, head),
    )
    if config.rope_n_elem != source.size("rotary_dim"):
        raise source.refusal(f"rotary_dim {source.size('rotary_dim')} is no part of {head}")
    return config, Widths(config.n_embd, tuple(groups), tuple(neurons))


def _mlp(source: SourceConfig) -> dict[str, Any]:
    activation = source.text("hidden_act")
    if not source.flag("gated_mlp") and activation in GELU:
        return {"mlp_class_name": "GptNeoxMLP", "gelu_approximate": GELU[activation]}
    if source.flag("gated_mlp") and activation in GELU:
        return {"mlp_class_name": "GemmaMLP", "gelu_approximate": GELU[activation]}
    if source.flag("gated_mlp") and activation == "silu":
        return {"mlp_class_name": "LLaMAMLP"}
    raise source.refusal(f"no export has the activation {activation}")


def _rotary(source: SourceConfig, head: int) -> dict[str, Any]:
    fields = rope(source)
    # litgpt takes the whole part of this product
    fields["rotary_percentage"] = min(1.0, (source.size("rotary_dim") + 1e-6) / head)
    if (base := source.optional_number("local_rope_theta")) is not None:
        fields["rope_local_base_freq"] = base
        fields["rope_indices"] = _indicators(source, "local_rope")
    return fields


def _attention(source: SourceConfig, head: int) -> dict[str, Any]:
    scale, embedding = source.number("attention_scale"), source.number("embedding_scale", 1.0)
    scalar = scale**-2
    scalar = round(scalar) if math.isclose(scalar, round(scalar), rel_tol=1e-9) else scalar
    fields: dict[str, Any] = {"attention_scores_scalar": None if scalar == head else scalar}
    if embedding != 1.0 and not math.isclose(embedding**2, source.size("hidden_size")):
        raise source.refusal(f"embedding_scale {embedding} is not the root of hidden_size")
    fields["scale_embeddings"] = embedding != 1.0
    if source.has("attention_window"):
        fields["sliding_window_size"] = source.size("attention_window")
        fields["sliding_window_indices"] = _indicators(source, "windows")
    return fields


def _indicators(source: SourceConfig, name: str) -> list[int]:
    value = source.fields.get(name)
    layers = len(source.sizes("query_groups"))
    if not isinstance(value, list) or len(value) != layers or not set(value) <= {True, False}:
        raise UserError(f"{source.path}: {name} needs true or false for each of {layers} blocks")
    return [int(item) for item in value]
