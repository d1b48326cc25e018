import json
import logging
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from evo.data.token_blocks import load_text
from evo.errors import UserError
from evo.huggingface import import_checkpoint as import_hf
from evo.huggingface.config import ImportConfig
from evo.huggingface.import_checkpoint import import_checkpoint
from evo.model import checkpoint as checkpoints
from evo.model.nll import summed_nll
from tests.support.bpe import write_tokenizer
from tests.support.families import FAMILIES, GROUPED, SHAPE, random_model, random_tokens, write

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def imported(source, out, **settings):
    result = import_checkpoint(ImportConfig(str(source), out, **settings))
    return result, checkpoints.load(out)


def logits_of(prefix, settings):
    tokens = torch.from_numpy(random_tokens(2, 70)).long()
    with torch.inference_mode():
        return tokens, random_model(prefix, settings)(tokens).logits


def assert_same_logits(teacher, prefix, settings):
    tokens, expected = logits_of(prefix, settings)
    with torch.inference_mode():
        logits = teacher.model()(tokens)
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)


def edited(source, target, **changes):
    """A copy of a checkpoint with other settings in its config.json; None removes one."""
    shutil.copytree(source, target)
    path = target / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: v for name, v in fields.items() if v is not None}))
    return target


def refused(source, out, match, **settings):
    """Importing ends in one line, and leaves nothing behind."""
    before = sorted(out.parent.iterdir()) if out.parent.is_dir() else None
    with pytest.raises(UserError, match=match) as caught:
        import_checkpoint(ImportConfig(str(source), out, **settings))
    assert "\n" not in str(caught.value)
    if before is not None:
        assert sorted(out.parent.iterdir()) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_import_gives_the_logits_of_transformers(family, hf_checkpoint, tmp_path):
    prefix, settings = FAMILIES[family]
    result, teacher = imported(hf_checkpoint(family), tmp_path / "teacher")
    assert_same_logits(teacher, prefix, settings)
    assert result["verified"]
    assert result["logit_difference"] < 2e-5
    model = random_model(prefix, settings)
    assert result["parameters"] == sum(p.numel() for p in model.parameters())
    assert (
        result["tied"]
        == teacher.tied
        == settings.get("tie_word_embeddings", prefix.startswith("Gemma"))
    )
    assert teacher.config.padded_vocab_size == teacher.vocabulary == 112


def test_grouped_queries_give_the_nll_of_an_independent_forward(teacher, tmp_path):
    """8 heads, 4 key and value heads of size 8; the NLL of a .npy of tokens, to 1e-4 relative."""
    np.save(tmp_path / "tokens.npy", random_tokens(6, 48, seed=1))
    loaded = checkpoints.load(teacher("llama"))
    assert (loaded.config.n_head, loaded.config.n_query_groups, loaded.config.head_size) == (
        8,
        4,
        8,
    )
    text = load_text(
        str(tmp_path / "tokens.npy"),
        tokenizer=None,
        vocabulary=loaded.vocabulary,
        sequence_length=64,
    )
    nll = summed_nll(loaded.model(), text.blocks, micro_batch=4).sum() / (6 * 47)
    tokens = torch.from_numpy(np.load(tmp_path / "tokens.npy")).long()
    with torch.inference_mode():
        reference = random_model(*FAMILIES["llama"])(tokens, labels=tokens).loss.item()
    assert nll == pytest.approx(reference, rel=1e-4)


@pytest.mark.parametrize(
    ("prefix", "settings"),
    [
        ("GPTNeoX", SHAPE | {"rotary_pct": 0.5, "rotary_emb_base": 5000}),
        ("GPTNeoX", SHAPE | {"rotary_pct": 1.0, "hidden_act": "gelu_fast"}),
        ("Llama", GROUPED | {"rope_parameters": LLAMA3 | {"rope_theta": 500000.0}}),
        ("Llama", GROUPED | {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}),
        ("Llama", GROUPED | {"head_dim": 16, "rms_norm_eps": 1e-3}),
        ("Mistral", GROUPED | {"sliding_window": None}),
        ("Mistral", GROUPED | {"sliding_window": 80}),
        ("Qwen2", GROUPED | {"use_sliding_window": True, "max_window_layers": 3}),
    ],
)
def test_settings_of_a_family(prefix, settings, tmp_path):
    source = write(tmp_path / "hf", prefix, settings)
    assert_same_logits(imported(source, tmp_path / "teacher")[1], prefix, settings)


@pytest.mark.parametrize(
    ("prefix", "settings", "old"),
    [
        (
            "GPTNeoX",
            SHAPE | {"rotary_pct": 0.5, "rotary_emb_base": 5000},
            {"rotary_pct": 0.5, "rotary_emb_base": 5000},
        ),
        (
            "Llama",
            GROUPED | {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
            {"rope_theta": 5000.0},
        ),
        (
            "Llama",
            GROUPED | {"rope_parameters": {"rope_type": "linear", "factor": 4.0}},
            {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
        ),
        (
            "Llama",
            GROUPED | {"rope_parameters": LLAMA3 | {"rope_theta": 500000.0}},
            {"rope_theta": 500000.0, "rope_scaling": LLAMA3},
        ),
    ],
)
def test_the_older_dialect_of_the_config(prefix, settings, old, tmp_path):
    source = write(tmp_path / "hf", prefix, settings)
    old = {"rope_parameters": None, "dtype": None, "torch_dtype": "float32", **old}
    source = edited(source, tmp_path / "old", **old)
    assert_same_logits(imported(source, tmp_path / "teacher")[1], prefix, settings)


@pytest.mark.parametrize("family", ["neox", "llama-tied", "llama-biases", "qwen3"])
def test_sharded_safetensors(family, tmp_path):
    prefix, settings = FAMILIES[family]
    source = write(tmp_path / "hf", prefix, settings, max_shard_size="60KB")
    assert len(list(source.glob("model-*.safetensors"))) > 3
    assert_same_logits(imported(source, tmp_path / "teacher")[1], prefix, settings)


@pytest.mark.parametrize("layout", ["one", "legacy", "sharded"])
def test_pytorch_bin(layout, hf_checkpoint, tmp_path):
    prefix, settings = FAMILIES["llama"]
    source = tmp_path / "hf"
    shutil.copytree(hf_checkpoint("llama"), source)
    weights = load_file(source / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    (source / "model.safetensors").unlink()
    if layout == "sharded":
        names = sorted(weights)
        shards = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
        for file, part in shards.items():
            torch.save({name: weights[name] for name in part}, source / file)
        index = {"metadata": {}}
        index["weight_map"] = {name: file for file, part in shards.items() for name in part}
        (source / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        zipped = layout == "one"
        torch.save(weights, source / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    result, teacher = imported(source, tmp_path / "teacher")
    assert result["verified"]
    assert_same_logits(teacher, prefix, settings)


def test_dtypes(hf_checkpoint, tmp_path):
    result, teacher = imported(hf_checkpoint("qwen3"), tmp_path / "half", dtype="bfloat16")
    assert result["verified"]
    assert {tensor.dtype for tensor in teacher.weights.values()} == {torch.bfloat16}

    source = tmp_path / "hf"
    random_model(*FAMILIES["llama-tied"]).to(torch.float16).save_pretrained(source)
    result, teacher = imported(source, tmp_path / "kept")
    assert result["verified"]
    assert {tensor.dtype for tensor in teacher.weights.values()} == {torch.float16}
    assert teacher.tied
    size = (tmp_path / "kept" / "lit_model.pth").stat().st_size
    assert size < 2 * result["parameters"] * 1.2  # the tied tensor is stored once
    with pytest.raises(UserError, match="float8"):
        ImportConfig(str(source), tmp_path / "out", dtype="float8")


def test_tokenizer_is_copied_and_gives_the_vocabulary(hf_checkpoint, tmp_path, caplog):
    settings = FAMILIES["neox"][1] | {"vocab_size": 320}
    source = write(tmp_path / "hf", "GPTNeoX", settings)
    write_tokenizer(source, vocabulary=300)
    with caplog.at_level(logging.WARNING, logger="evo"):
        result, teacher = imported(source, tmp_path / "teacher")
        assert not caplog.records
        assert not imported(hf_checkpoint("neox"), tmp_path / "bare")[0]["tokenizer"]
    assert "has no tokenizer" in caplog.text
    assert result["tokenizer"]
    assert (tmp_path / "teacher" / "tokenizer_config.json").is_file()
    assert teacher.config.padded_vocab_size == 320
    assert teacher.config.vocab_size == teacher.vocabulary == 300


@pytest.mark.parametrize(
    ("family", "changes", "match"),
    [
        ("llama", {"model_type": "gpt2"}, "model_type 'gpt2' cannot be imported, only gpt_neox, "),
        ("neox", {"hidden_act": "relu"}, "not relu"),
        ("neox", {"attention_bias": False}, "without biases"),
        ("llama", {"hidden_act": "gelu"}, "not gelu"),
        ("llama", {"attention_bias": True}, "both or none"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'"),
        ("llama", {"rope_parameters": None, "rope_scaling": {"type": "dynamic"}}, "'dynamic'"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "rope's factor is None"),
        ("llama", {"partial_rotary_factor": 0.5}, "only 0.5 of each head"),
        ("llama", {"num_local_experts": 8}, "mixture of experts"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ("llama", {"hidden_size": None}, "hidden_size is None, but a positive integer"),
        ("llama", {"num_hidden_layers": "3"}, "num_hidden_layers is '3'"),
        ("llama", {"num_key_value_heads": 3}, "no multiple of num_key_value_heads 3"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "use_sliding_window is not true"),
        ("qwen2", {"layer_types": ["full_attention"]}, "has 1 entries for 3 layers"),
        (
            "qwen2",
            {"layer_types": None, "max_window_layers": "1", "use_sliding_window": True},
            "max_window_layers",
        ),
        ("gemma", {"use_bidirectional_attention": True}, "sees what follows"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
    ],
)
def test_what_litgpt_cannot_say_is_refused(family, changes, match, hf_checkpoint, tmp_path):
    source = edited(hf_checkpoint(family), tmp_path / "hf", **changes)
    refused(source, tmp_path / "teacher", match)


@pytest.mark.parametrize(
    ("family", "changes", "match"),
    [
        ("llama", {"intermediate_size": 97}, "mlp.*asked for"),
        ("llama", {"num_hidden_layers": 2}, "3 layers, but config.json says 2"),
        ("llama", {"num_hidden_layers": 4}, "3 layers, but config.json says 4"),
        ("llama", {"vocab_size": 111}, r"\(112, 64\), but \(111, 64\)"),
        ("llama", {"model_type": "qwen3"}, "norm_q|lack"),
        ("qwen3", {"model_type": "llama"}, "_norm.weight that no llama"),
        ("neox", {"num_attention_heads": 7, "hidden_size": 63}, "do not match"),
        ("llama", {"tie_word_embeddings": True}, "lm_head.weight is not model.embed_tokens"),
        ("llama-tied", {"tie_word_embeddings": False}, "lack the tensor lm_head.weight"),
    ],
)
def test_weights_of_another_config_are_refused(family, changes, match, hf_checkpoint, tmp_path):
    source = edited(hf_checkpoint(family), tmp_path / "hf", **changes)
    refused(source, tmp_path / "teacher", match)


def test_damaged_files_are_refused(tmp_path):
    source = write(tmp_path / "hf", *FAMILIES["llama"], max_shard_size="60KB")
    out = tmp_path / "teacher"
    shard = sorted(source.glob("model-*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    refused(source, out, f"{shard.name} cannot be read")
    shard.unlink()
    refused(source, out, f"{shard.name} is missing")
    for content in ("{}", "[" * 100_000):
        (source / "model.safetensors.index.json").write_text(content)
        refused(source, out, "no index of weights")
    for path in source.glob("model*"):
        path.unlink()
    refused(source, out, "has no weights")
    (source / "config.json").write_text("{")
    refused(source, out, "is no JSON")
    (source / "config.json").write_text("[]")
    refused(source, out, "no JSON object")
    (source / "config.json").unlink()
    refused(source, out, "has no config.json")
    refused(source / "nothing", out, "is no directory")


def test_other_tensors_than_weights_are_refused(hf_checkpoint, tmp_path):
    source = tmp_path / "hf"
    shutil.copytree(hf_checkpoint("llama"), source)
    weights = load_file(source / "model.safetensors")
    changed = weights | {"model.norm.weight": weights["model.norm.weight"].to(torch.int8)}
    save_file(changed, source / "model.safetensors")
    refused(source, tmp_path / "teacher", "model.norm.weight is torch.int8")
    save_file(
        weights | {"model.layers.0.extra.weight": torch.ones(2)}, source / "model.safetensors"
    )
    refused(source, tmp_path / "teacher", "extra.weight")


def test_logits_that_differ_are_refused(hf_checkpoint, tmp_path, monkeypatch):
    source = tmp_path / "hf"
    shutil.copytree(hf_checkpoint("neox"), source)
    monkeypatch.setattr(import_hf, "TOLERANCE", 1e-12)
    refused(source, tmp_path / "teacher", "differ from transformers' by")
    monkeypatch.undo()
    weights = load_file(source / "model.safetensors")
    weights["gpt_neox.embed_in.weight"][:, 0] = torch.nan
    save_file(weights, source / "model.safetensors")
    refused(source, tmp_path / "teacher", "not finite")
    assert not imported(source, tmp_path / "teacher", verify=False)[0]["verified"]


def test_places_that_cannot_be_written_are_refused_first(hf_checkpoint, teacher, tmp_path):
    source = hf_checkpoint("llama")
    (tmp_path / "file").write_text("")
    refused(source, tmp_path / "file", "exists already")
    refused(source, tmp_path / "file" / "teacher", "is a file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    refused(source, tmp_path / "full", "exists already")
    refused(teacher("llama"), tmp_path / "teacher", "is a litgpt checkpoint")


def test_repo_ids(hf_checkpoint, tmp_path, monkeypatch):
    """Without a network, what the hub's own cache holds is used, and anything else is refused."""
    cache = tmp_path / "hub"
    snapshots = cache / "models--someone--small-llama" / "snapshots"
    shutil.copytree(hf_checkpoint("llama"), snapshots / ("0" * 40))
    (snapshots.parent / "refs").mkdir()
    (snapshots.parent / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    result, teacher = imported("someone/small-llama", tmp_path / "teacher")
    assert result["verified"]
    assert teacher.config.hf_config["name"] == "someone/small-llama"
    refused("someone/other", tmp_path / "out", "cannot be fetched from the Hugging Face hub")
    refused("other", tmp_path / "out", "or a repo id such as")
