"""The mapping of published configs, against what litgpt's own registry says of these models."""

import json
from dataclasses import asdict

import pytest
from litgpt.config import Config

from evo.huggingface.from_config import is_tied_source, litgpt_config
from evo.huggingface.source_config import SourceConfig

PYTHIA = {
    "architectures": ["GPTNeoXForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "model_type": "gpt_neox",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "use_parallel_residual": True,
    "vocab_size": 50304,
}
LLAMA = {
    "attention_bias": False,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
QWEN2 = {
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN3 = {
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
OLMO2 = {
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "olmo2",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
    "vocab_size": 100352,
}


@pytest.mark.parametrize(
    ("name", "fields", "vocabulary"),
    [
        ("pythia-410m", PYTHIA, 50277),
        ("Llama-3.2-1B", LLAMA, 128256),
        ("Qwen2.5-0.5B", QWEN2, 151665),
        ("Qwen3-0.6B", QWEN3, 151669),
        ("OLMo-2-1124-7B", OLMO2, 100278),
    ],
)
def test_published_models_are_those_of_litgpts_registry(name, fields, vocabulary, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(fields))
    source = SourceConfig.read(tmp_path / "config.json")
    ours = asdict(litgpt_config(source, vocabulary, name))
    theirs = asdict(Config.from_name(name))
    # litgpt's vocab_size leaves out added tokens, and padding_multiple is moot where padded
    for field in ("name", "hf_config", "vocab_size", "padding_multiple"):
        del ours[field], theirs[field]
    assert ours == theirs
    assert is_tied_source(source) == fields["tie_word_embeddings"]


@pytest.mark.parametrize(("vocabulary", "said"), [(None, 50304), (50277, 50277), (60000, 50304)])
def test_the_real_vocabulary_is_the_tokenizers(vocabulary, said, tmp_path):
    source = SourceConfig(tmp_path / "config.json", PYTHIA)
    config = litgpt_config(source, vocabulary, "EleutherAI/pythia-410m")
    assert config.vocab_size == said
    assert config.padded_vocab_size == 50304
    assert config.hf_config == {"name": "EleutherAI/pythia-410m", "tie_word_embeddings": False}
