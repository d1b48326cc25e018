"""`evo export`: a checkpoint as a Hugging Face directory."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from evo.errors import UserError, first_line
from evo.genome.subnet import Widths
from evo.huggingface.config import ExportConfig
from evo.huggingface.import_checkpoint import TOLERANCE, tokens_to_compare
from evo.huggingface.to_config import (
    has_unit_offset,
    hidden_act,
    native_config,
    refuse_unsaid,
    rope_parameters,
    windows,
)
from evo.huggingface.to_weights import native_weights
from evo.model import checkpoint as checkpoints
from evo.model import tokenizer as tokenizers
from evo.model.checkpoint import Checkpoint
from evo.model.litgpt import Config
from evo.model.network import HEAD
from evo.storage.files import atomic_directory, refuse_occupied

if TYPE_CHECKING:
    from evo.huggingface.modeling_evo import EvoForCausalLM

MODELING = "modeling_evo"
"""The module that an export brings with it, and its file's stem."""

SHARD_SIZE = "5GB"


def export(config: ExportConfig) -> dict[str, Any]:
    """Write a Hugging Face directory that computes what a checkpoint computes.

    Returns:
        What was written: `model`, `out`, `class` (in transformers, or in the file beside the
        weights), `parameters`, `verified`, and `logit_difference`, the largest one to the
        checkpoint's own logits, None where they were not compared.

    Raises:
        UserError: the checkpoint cannot be read, or said so; the logits differ, or `out` cannot be
            written. Nothing is left behind then.
    """
    refuse_occupied(config.out)
    stored = checkpoints.load(config.model)
    try:
        said, weights = _native(stored) if config.native else _portable(stored)
    except UserError as error:
        raise UserError(f"{config.model}: {error}") from error
    dtype = str(stored.weights[HEAD].dtype).removeprefix("torch.")
    tokens = _special_tokens(stored)
    with atomic_directory(config.out) as directory:
        save_torch_state_dict(weights, directory, max_shard_size=SHARD_SIZE)
        _write_json(directory / "config.json", {**said, **tokens, "dtype": dtype})
        if not config.native:
            shutil.copy(Path(__file__).with_name(f"{MODELING}.py"), directory)
        for name in tokenizers.FILES:
            if (stored.path / name).is_file():
                shutil.copy(stored.path / name, directory / name)
        if stored.tokenizer and not (directory / "generation_config.json").is_file():
            _write_json(directory / "generation_config.json", tokens)
        difference = _verify(directory, stored, native=config.native) if config.verify else None
    return {
        "model": str(config.model),
        "out": str(config.out),
        "class": said["architectures"][0],
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "verified": difference is not None,
        "logit_difference": difference,
    }


def _native(stored: Checkpoint) -> tuple[dict[str, Any], dict[str, Tensor]]:
    network = stored.config, stored.widths
    try:
        said = native_config(*network, tied=stored.tied)
        return said, native_weights(*network, stored.weights, tied=stored.tied)
    except UserError as error:
        raise UserError(f"{error}; leave --native away to bring a modelling file along") from error


def _portable(stored: Checkpoint) -> tuple[dict[str, Any], dict[str, Tensor]]:
    weights = {
        name: tensor
        for name, tensor in stored.weights.items()
        if not (stored.tied and name == HEAD)
    }
    return portable_config(stored.config, stored.widths, tied=stored.tied), weights


def portable_model(stored: Checkpoint, dtype: torch.dtype, device: str) -> EvoForCausalLM:
    """A checkpoint as the modelling file's class, in evaluation mode, without writing an export.

    The weights go from the checkpoint's file to the device: no other copy of them is made.

    Raises:
        UserError: that class cannot express the network.
    """
    from evo.huggingface.modeling_evo import EvoConfig, EvoForCausalLM

    described = portable_config(stored.config, stored.widths, tied=stored.tied)
    with torch.device("meta"):
        model: Any = EvoForCausalLM(EvoConfig(**{**described, **_special_tokens(stored)}))
    model.to(dtype).to_empty(device=device)
    model.tie_weights()
    model.load_state_dict(stored.weights)
    return model.eval()


def portable_config(config: Config, widths: Widths, *, tied: bool) -> dict[str, Any]:
    """The `config.json` of a network in the modelling file's class.

    A layer-wise network's litgpt config says what its blocks have in common.

    Raises:
        UserError: that class cannot say it.
    """
    refuse_unsaid(config)
    if (config.norm_1, config.post_attention_norm) != (config.norm_2, config.post_mlp_norm):
        raise UserError(f"no export can say the norms of {config.name}")
    query_key_norm = "heads" if config.norm_qk_type == "olmo2" else "head"
    return {
        "model_type": "evo",
        "architectures": ["EvoForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{MODELING}.EvoConfig",
            "AutoModelForCausalLM": f"{MODELING}.EvoForCausalLM",
        },
        "vocab_size": config.padded_vocab_size,
        "hidden_size": config.n_embd,
        "head_dim": config.head_size,
        "rotary_dim": config.rope_n_elem,
        "query_groups": list(widths.groups),
        "queries_per_group": config.n_head // config.n_query_groups,
        "intermediate_sizes": list(widths.neurons),
        "max_position_embeddings": config.block_size,
        "rope_parameters": rope_parameters(config),
        "local_rope_theta": config.rope_local_base_freq,
        "local_rope": [bool(index) for index in config.rope_indices or [0] * config.n_layer],
        "attention_window": config.sliding_window_size if any(windows(config)) else None,
        "windows": windows(config),
        "attention_softcap": config.attention_logit_softcapping,
        "logit_softcap": config.final_logit_softcapping,
        "embedding_scale": math.sqrt(config.n_embd) if config.scale_embeddings else 1.0,
        "unit_offset": has_unit_offset(config),
        "attention_scale": 1 / math.sqrt(config.attention_scores_scalar or config.head_size),
        "norm": config.norm_class_name,
        "norm_eps": config.norm_eps,
        "pre_norm": config.norm_1,
        "post_norm": config.post_mlp_norm,
        "query_key_norm": query_key_norm if config.norm_qk else "none",
        "parallel_residual": config.parallel_residual,
        "hidden_act": hidden_act(config),
        "gated_mlp": config.mlp_class_name != "GptNeoxMLP",
        "attention_bias": config.bias or config.attn_bias,
        "bias": config.bias,
        "tie_word_embeddings": tied,
    }


def _special_tokens(stored: Checkpoint) -> dict[str, Any]:
    """What begins, ends and pads a text, said also where it is unknown: classes have defaults.

    What the checkpoint's settings of generation say counts more than its tokenizer.
    """
    tokenizer = stored.tokenizer
    said = {
        "bos_token_id": tokenizer and tokenizer.beginning_of_text,
        "eos_token_id": tokenizer and tokenizer.end_of_text,
        "pad_token_id": None,
    }
    settings = tokenizers.generation_settings(stored.path)
    return said | {name: settings[name] for name in said if settings.get(name) is not None}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _verify(directory: Path, stored: Checkpoint, *, native: bool) -> float | None:
    """The largest difference of what was written to the checkpoint's own logits, or None where
    transformers is not installed.

    Raises:
        UserError: it cannot be loaded, or the difference is too large.
    """
    tokens = tokens_to_compare(stored.config)
    if tokens is None:
        return None
    with torch.inference_mode():
        logits = reloaded(directory, native=native)(tokens).logits
        expected = stored.model()(tokens)
    difference = (logits - expected).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):  # NaN fails too
        raise UserError(f"{stored.path}: written, its logits differ by {difference:.3g}")
    return difference


def reloaded(directory: Path, *, native: bool) -> Any:
    """An export as transformers loads it, in float32, in evaluation mode.

    Raises:
        UserError: it cannot.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    if native:
        model_class: Any = AutoModelForCausalLM
    else:  # the same file as in the directory, which transformers would copy into its cache
        from evo.huggingface.modeling_evo import EvoForCausalLM as model_class
    settings: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True}
    if native:
        settings["attn_implementation"] = "eager"  # the other ones leave soft capping out
    try:
        model = model_class.from_pretrained(directory, **settings)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{directory}: transformers cannot load it: {first_line(error)}") from error
    return model.eval()
