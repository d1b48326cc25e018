"""Small random checkpoints of every family, written by transformers itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers

SHAPE = {
    "vocab_size": 112,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "intermediate_size": 96,
    "max_position_embeddings": 80,
}
GROUPED = SHAPE | {"num_key_value_heads": 4, "head_dim": 8}

GEMMA = SHAPE | {"num_key_value_heads": 4, "head_dim": 12}
GEMMA |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))

FAMILIES: dict[str, tuple[str, dict]] = {
    "neox": ("GPTNeoX", SHAPE),
    "neox-sequential": (
        "GPTNeoX",
        SHAPE | {"use_parallel_residual": False, "hidden_act": "gelu_new", "rotary_pct": 0.5},
    ),
    "llama": ("Llama", GROUPED),
    "llama-tied": ("Llama", GROUPED | {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", GROUPED | {"attention_bias": True, "mlp_bias": True}),
    "qwen2": ("Qwen2", SHAPE | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", SHAPE | {"num_key_value_heads": 4, "head_dim": 12}),
    "olmo2": ("Olmo2", SHAPE | {"num_key_value_heads": 4}),
    "mistral-window": ("Mistral", GROUPED | {"sliding_window": 9}),
    "qwen2-window": (
        "Qwen2",
        SHAPE
        | {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 9}
        | {"max_window_layers": 1},
    ),
    "gemma": ("Gemma", GEMMA),
    "gemma2": ("Gemma2", GEMMA | {"sliding_window": 9, "query_pre_attn_scalar": 24}),
    "gemma3": (
        "Gemma3",
        GEMMA
        | {"sliding_window": 9, "query_pre_attn_scalar": 24, "sliding_window_pattern": 2}
        | {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    ),
}
"""Each family's prefix in transformers, and the settings of its checkpoint."""


def network(prefix: str, settings: dict) -> transformers.PreTrainedModel:
    """A network of a family as transformers has it, its weights at random."""
    name = "Gemma3Text" if prefix == "Gemma3" else prefix
    config = getattr(transformers, f"{name}Config")(**settings)
    model = getattr(transformers, f"{prefix}ForCausalLM")(config)
    model.set_attn_implementation("eager")  # the other ones leave soft capping out
    return model


def random_model(prefix: str, settings: dict, seed: int = 0) -> transformers.PreTrainedModel:
    """A network of a family in which every weight matters, norms and biases too."""
    model = network(prefix, settings)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.from_numpy(rng.standard_normal(parameter.shape, np.float32))
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * values)
            else:
                parameter.copy_(values * (0.2 if parameter.dim() == 1 else 0.1))
    return model.eval()


def write(directory: Path, prefix: str, settings: dict, **how: object) -> Path:
    """Write such a checkpoint as transformers does."""
    random_model(prefix, settings).save_pretrained(directory, **how)
    return directory


def random_tokens(rows: int, length: int, vocabulary: int = 112, seed: int = 0) -> np.ndarray:
    """Token ids, shape [rows, length]."""
    return np.random.default_rng(seed).integers(vocabulary, size=(rows, length), dtype=np.int32)
