"""Exports, loaded by the real transformers."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from litgpt.config import Config
from litgpt.model import GPT
from safetensors.torch import load_file
from torch.nn import functional

from evo.errors import UserError
from evo.huggingface import export_checkpoint as exports
from evo.huggingface.config import ExportConfig, ImportConfig
from evo.huggingface.export_checkpoint import export
from evo.huggingface.import_checkpoint import import_checkpoint
from evo.model import checkpoint
from evo.model.tokenizer import load_tokenizer
from tests.support.bpe import TEXT, write_tokenizer
from tests.support.families import FAMILIES, SHAPE, write
from tests.support.winners import cut, logits_of, sized, tokens

TOLERANCE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(autouse=True, scope="module")
def own_modules(tmp_path_factory):
    """Modelling files are not copied into the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("modules"))
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
        patch.setattr("sys.path", [*sys.path])
        yield


def reloaded(directory):
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, trust_remote_code=True, dtype=torch.float32
    ).eval()


def exported(winner, out, **settings):
    result = export(ExportConfig(winner, out, **settings))
    return result, reloaded(out)


def assert_same_logits(model, winner):
    ids = tokens()
    with torch.inference_mode():
        logits = model(ids).logits
    torch.testing.assert_close(logits, logits_of(winner, ids), **TOLERANCE)


def greedy(winner, prompt, count):
    """The likeliest tokens by litgpt's forward, everything computed anew for each."""
    ids, network = prompt, checkpoint.load(winner).model()
    with torch.inference_mode():
        for _ in range(count):
            ids = torch.cat([ids, network(ids)[:, -1:].argmax(-1)], dim=1)
    return ids[:, prompt.size(1) :]


def generated(model, prompt, count, **settings):
    """The same by transformers' `generate`."""
    mask = torch.ones_like(prompt)  # else a 0 among the tokens would be taken for padding
    ids = model.generate(
        prompt, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0,
        **settings,
    )  # fmt: skip
    return ids[:, prompt.size(1) :]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("uniform", [True, False])
def test_every_winner(family, uniform, teacher, tmp_path):
    """Logits, with a cache and without, and `generate`."""
    winner = cut(teacher(family), tmp_path / "winner", uniform=uniform)
    stored = checkpoint.load(winner)
    assert stored.widths.is_uniform == uniform
    result, model = exported(winner, tmp_path / "hf")
    assert result["class"] == type(model).__name__ == "EvoForCausalLM"
    assert result["verified"]
    assert result["logit_difference"] < 2e-5
    assert result["parameters"] == model.num_parameters()
    assert model.config.tie_word_embeddings == stored.tied
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == stored.tied
    assert_same_logits(model, winner)

    ids = tokens(2, 12)
    with torch.inference_mode():
        begun = model(ids[:, :7], use_cache=True)
        steps, cache = [begun.logits], begun.past_key_values
        for position in range(7, 12):
            steps.append(model(ids[:, position : position + 1], past_key_values=cache).logits)
    torch.testing.assert_close(torch.cat(steps, 1), logits_of(winner, ids), **TOLERANCE)
    assert model(ids, use_cache=False).past_key_values is None

    assert torch.equal(generated(model, ids, 9), greedy(winner, ids, 9))


@pytest.mark.parametrize(
    ("family", "head_size"),
    [("neox-sequential", 4), ("llama", 6), ("qwen2", 2), ("qwen3", 6), ("olmo2", 4)],
)
def test_smaller_heads(family, head_size, teacher, tmp_path):
    winner = cut(teacher(family), tmp_path / "winner", uniform=False, head_size=head_size)
    _, model = exported(winner, tmp_path / "hf")
    assert model.config.head_dim == head_size
    assert_same_logits(model, winner)


@pytest.mark.parametrize("implementation", ["dynamic", "static"])
def test_left_padding(implementation, teacher, tmp_path):
    winner = cut(teacher("llama"), tmp_path / "winner", uniform=False)
    _, model = exported(winner, tmp_path / "hf")
    prompts = [tokens(1, length) for length in (3, 7)]
    ids = torch.cat([functional.pad(prompt, (7 - prompt.size(1), 0)) for prompt in prompts])
    mask = torch.cat([functional.pad(torch.ones_like(p), (7 - p.size(1), 0)) for p in prompts])
    found = model.generate(
        ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0,
        cache_implementation=None if implementation == "dynamic" else "static",
    )  # fmt: skip
    for row, prompt in zip(found, prompts, strict=True):
        assert torch.equal(row[None, 7:], greedy(winner, prompt, 8))
    with torch.inference_mode():
        logits = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(logits[0, 4:], logits_of(winner, prompts[0])[0], **TOLERANCE)


@pytest.mark.parametrize(
    ("family", "uniform"),
    [
        pytest.param(family, uniform, marks=[] if family == quick else [pytest.mark.slow])
        for uniform, quick in ((True, "neox"), (False, "gemma3"))
        for family in ("neox", "llama", "qwen3", "gemma2", "gemma3")
    ],
)
def test_packed_documents_do_not_see_each_other(family, uniform, teacher, tmp_path):
    """Position ids alone say where documents begin, as in transformers' own classes."""
    winner = cut(teacher(family), tmp_path / "winner", uniform=uniform)
    _, model = exported(winner, tmp_path / "hf")
    documents = [tokens(2, length) for length in (5, 1, 12)]
    ids = torch.cat(documents, dim=1)
    positions = torch.cat([torch.arange(each.size(1)) for each in documents])[None].expand(2, -1)
    alone = torch.cat([logits_of(winner, each) for each in documents], dim=1)
    for settings in ({}, {"use_cache": False}):
        with torch.inference_mode():
            logits = model(ids, position_ids=positions, **settings).logits
        torch.testing.assert_close(logits, alone, **TOLERANCE)
    with torch.inference_mode():
        whole = model(ids, position_ids=torch.arange(ids.size(1))[None]).logits
        assert (whole[:, 6:] - alone[:, 6:]).abs().max() > 1e-4
    torch.testing.assert_close(whole, logits_of(winner, ids), **TOLERANCE)
    rows = positions.clone()
    rows[1] = torch.arange(ids.size(1))  # rows may differ
    with torch.inference_mode():
        mixed = model(ids, position_ids=rows).logits
    torch.testing.assert_close(mixed, torch.stack([alone[0], whole[1]]), **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "neox"])
def test_packed_documents_are_those_of_the_native_class(family, teacher, tmp_path):
    stored = teacher(family)
    _, portable = exported(stored, tmp_path / "portable")
    _, native = exported(stored, tmp_path / "native", native=True)
    ids = tokens(1, 14)
    positions = torch.cat([torch.arange(6), torch.arange(8)])[None]
    with torch.inference_mode():
        found, expected = (
            model(ids, position_ids=positions, use_cache=False).logits
            for model in (portable, native)
        )
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_other_ways_to_generate(teacher, tmp_path):
    """Beams, which reorder the cache, and embeddings instead of tokens."""
    winner = cut(teacher("neox"), tmp_path / "winner", uniform=False)
    _, model = exported(winner, tmp_path / "hf")
    ids = tokens(2, 6)
    cached = generated(model, ids, 6, num_beams=3)
    assert torch.equal(cached, generated(model, ids, 6, num_beams=3, use_cache=False))
    embedded = model(inputs_embeds=model.get_input_embeddings()(ids), output_hidden_states=True)
    torch.testing.assert_close(embedded.logits, logits_of(winner, ids), **TOLERANCE)
    assert len(embedded.hidden_states) == model.config.num_hidden_layers + 1
    begun = model(ids[:, :4]).past_key_values
    rest = model(ids[:, 4:], cache=begun).logits  # as transformers 5.24 calls it
    torch.testing.assert_close(rest, embedded.logits[:, 4:], **TOLERANCE)
    last = model(ids, logits_to_keep=1, return_dict=False)[0]
    torch.testing.assert_close(last, embedded.logits[:, -1:])


def test_it_trains_and_is_saved_again(teacher, tmp_path):
    winner = cut(teacher("llama-tied"), tmp_path / "winner", uniform=False)
    _, model = exported(winner, tmp_path / "hf")
    ids = tokens(2, 20)
    output = model(ids, labels=ids)
    expected = functional.cross_entropy(logits_of(winner, ids)[:, :-1].flatten(0, 1),
                                        ids[:, 1:].flatten())  # fmt: skip
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    model.save_pretrained(tmp_path / "again")
    with torch.inference_mode():
        logits = model(ids).logits
        torch.testing.assert_close(reloaded(tmp_path / "again")(ids).logits, logits)


@pytest.mark.parametrize("reentrant", [None, True])
@pytest.mark.parametrize("padded", [False, True])
def test_gradient_checkpointing(reentrant, padded, teacher, tmp_path):
    winner = cut(teacher("llama-tied"), tmp_path / "winner", uniform=False)
    _, model = exported(winner, tmp_path / "hf")
    model.train()
    ids = tokens(2, 20)
    mask = torch.ones_like(ids)
    mask[0, :5] = 1 - padded
    runs: list[int] = []
    model.transformer.h[0].attn.register_forward_hook(lambda *_: runs.append(1))

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        runs.clear()
        model(ids, attention_mask=mask, labels=ids).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    expected = gradients()
    assert len(runs) == 1
    settings = None if reentrant is None else {"use_reentrant": reentrant}
    model.gradient_checkpointing_enable(settings)
    torch.testing.assert_close(gradients(), expected)
    assert len(runs) == 2
    model.gradient_checkpointing_disable()
    assert len(model(ids).past_key_values) == model.config.num_hidden_layers


def test_it_compiles_as_one_graph(teacher, tmp_path):
    winner = cut(teacher("llama"), tmp_path / "winner", uniform=False)
    _, model = exported(winner, tmp_path / "hf")
    ids = tokens(2, 12)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for given in (mask, torch.ones_like(ids)):
        with torch.inference_mode():
            expected = model(ids, attention_mask=given, use_cache=False).logits
            logits = compiled(ids, attention_mask=given, use_cache=False).logits
        torch.testing.assert_close(logits, expected, **TOLERANCE)


@pytest.mark.slow
def test_it_needs_neither_litgpt_nor_this_package(teacher, tmp_path):
    winner = cut(teacher("qwen3"), tmp_path / "winner", uniform=False)
    export(ExportConfig(winner, tmp_path / "hf"))
    np.save(tmp_path / "ids.npy", tokens().numpy())
    code = (
        "import sys\n"
        "for name in ('litgpt', 'lightning', 'evo', 'training'): sys.modules[name] = None\n"
        "import numpy, torch, transformers\n"
        "model = transformers.AutoModelForCausalLM.from_pretrained('hf', trust_remote_code=True)\n"
        "ids = torch.from_numpy(numpy.load('ids.npy'))\n"
        "numpy.save('logits.npy', model(ids).logits.detach().numpy())\n"
    )
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, env=environment, check=True, timeout=200
    )
    logits = torch.from_numpy(np.load(tmp_path / "logits.npy"))
    torch.testing.assert_close(logits, logits_of(winner, tokens()), **TOLERANCE)


# The family's own class

NATIVE = [
    ("neox", {"channels": 48, "groups": 6}),
    ("neox", {"channels": 48, "groups": 3}),
    ("neox-sequential", {"channels": 24, "groups": 1}),
    ("neox-sequential", {"channels": 20, "groups": 3, "head_size": 4}),
    ("llama", {"channels": 36, "groups": 3}),
    ("llama", {"channels": 37, "groups": 3}),
    ("llama", {"channels": 37, "groups": 3, "head_size": 6}),
    ("llama-tied", {"channels": 40, "groups": 1}),
    ("llama-biases", {"channels": 40, "groups": 4}),
    ("qwen2", {"channels": 30, "groups": 1}),
    ("qwen3", {"channels": 30, "groups": 2, "head_size": 6}),
    ("olmo2", {"channels": 30, "groups": 3}),
]


@pytest.mark.parametrize(("family", "shape"), NATIVE)
def test_native(family, shape, teacher, tmp_path):
    """In the family's own class; imported again it is the same network."""
    winner = sized(teacher(family), tmp_path / "winner", **shape)
    result, model = exported(winner, tmp_path / "hf", native=True)
    prefix, heads = FAMILIES[family][0], checkpoint.load(winner).config.n_head
    if prefix == "Llama" and shape["channels"] % heads:  # refused there from transformers 5.4 on
        prefix = "Mistral"
    assert result["class"] == type(model).__name__ == f"{prefix}ForCausalLM"
    assert type(model).__module__.startswith("transformers.models.")
    assert not list((tmp_path / "hf").glob("*.py"))
    assert result["parameters"] == model.num_parameters()
    assert_same_logits(model, winner)
    assert torch.equal(generated(model, tokens(1, 5), 6), greedy(winner, tokens(1, 5), 6))

    import_checkpoint(ImportConfig(str(tmp_path / "hf"), tmp_path / "again"))
    ids = tokens()
    torch.testing.assert_close(
        logits_of(tmp_path / "again", ids), logits_of(winner, ids), **TOLERANCE
    )
    before, again = checkpoint.load(winner), checkpoint.load(tmp_path / "again")
    assert again.tied == before.tied
    if not family.startswith("neox"):  # there, heads that give nothing may have been added
        assert again.widths == before.widths


def test_heads_that_give_nothing_are_exactly_zero(teacher, tmp_path):
    winner = sized(teacher("neox"), tmp_path / "winner", channels=48, groups=2)
    _, model = exported(winner, tmp_path / "hf", native=True)
    assert model.config.num_attention_heads == 6
    for layer in model.gpt_neox.layers:
        rows = layer.attention.query_key_value.weight.view(6, 24, 48)
        assert rows[:2].abs().sum() > 0
        assert not rows[2:].any()
        assert not layer.attention.dense.weight[:, 16:].any()


@pytest.mark.parametrize(
    ("prefix", "settings", "family"),
    [
        ("Mistral", {"sliding_window": None, "num_key_value_heads": 4}, "mistral"),
        ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}, "llama"),
        (
            "Llama",
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
                                 "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                 "original_max_position_embeddings": 32}},
            "llama",
        ),
        ("GPTNeoX", {"rotary_pct": 1.0, "rotary_emb_base": 5000, "hidden_act": "gelu_new"},
         "gpt_neox"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("native", [True, False])
def test_settings_of_a_family(prefix, settings, family, native, tmp_path):
    source = write(tmp_path / "source", prefix, SHAPE | settings)
    import_checkpoint(ImportConfig(str(source), tmp_path / "teacher"))
    _, model = exported(tmp_path / "teacher", tmp_path / "hf", native=native)
    assert model.config.model_type == (family if native else "evo")
    assert_same_logits(model, tmp_path / "teacher")


# Files


def test_tokenizer(tmp_path):
    source = write(tmp_path / "source", "GPTNeoX", SHAPE | {"vocab_size": 320})
    write_tokenizer(source)
    import_checkpoint(ImportConfig(str(source), tmp_path / "teacher"))
    (tmp_path / "teacher" / "generation_config.json").unlink()  # of GPTNeoXConfig's defaults
    ours = load_tokenizer(tmp_path / "teacher")
    for native in (True, False):
        out = tmp_path / f"native-{native}"
        _, model = exported(tmp_path / "teacher", out, native=native)
        theirs = transformers.AutoTokenizer.from_pretrained(out, trust_remote_code=True)
        ids = theirs(TEXT)["input_ids"]
        assert ids == ours.encode([TEXT])[0].tolist()
        assert theirs.decode(ids) == TEXT
        assert model.generation_config.eos_token_id == theirs.eos_token_id == ours.end_of_text
        assert model.config.eos_token_id == ours.end_of_text


def test_chat_template(tmp_path):
    """In the file in which transformers 5 keeps it; and what else a tokenizer may have."""
    source = write(tmp_path / "source", "GPTNeoX", SHAPE | {"vocab_size": 320})
    write_tokenizer(source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = (
        "{% for one in messages %}<{{ one.role }}> {{ one.content }}{% endfor %}"
    )
    tokenizer.save_pretrained(source)
    assert (source / "chat_template.jinja").is_file()
    (source / "added_tokens.json").write_text(json.dumps({"<|endoftext|>": 0}))
    import_checkpoint(ImportConfig(str(source), tmp_path / "teacher"))
    exported(tmp_path / "teacher", tmp_path / "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    said = theirs.apply_chat_template([{"role": "user", "content": "quick fox"}], tokenize=False)
    assert said == "<user> quick fox"
    assert (tmp_path / "hf" / "added_tokens.json").is_file()


def test_dtype_and_shards(teacher, tmp_path, monkeypatch):
    winner = cut(teacher("llama-tied"), tmp_path / "winner", uniform=False)
    stored = checkpoint.load(winner)
    half = tmp_path / "half"
    checkpoint.save(half, stored.model(torch.bfloat16))
    monkeypatch.setattr(exports, "SHARD_SIZE", "2KB")
    _, model = exported(half, tmp_path / "hf")
    shards = sorted((tmp_path / "hf").glob("model-*.safetensors"))
    assert len(shards) > 2
    weights = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in weights
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "bfloat16"
    assert_same_logits(model, half)


# Refusals


def refused(winner: Path, out: Path, match: str, **settings: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        export(ExportConfig(winner, out, **settings))
    assert "\n" not in str(caught.value)
    assert not [path for path in out.parent.iterdir() if "hf" in path.name]


@pytest.mark.parametrize(
    ("family", "shape", "match"),
    [
        ("neox", {"channels": 44, "groups": 2}, "44 channels are no multiple of its head size 8"),
        ("neox", {"channels": 16, "groups": 3}, "3 heads have 24 channels, but in GPTNeoX"),
        (
            "llama-biases",
            {"channels": 37, "groups": 3},
            "37 channels are no multiple of its 6 heads",
        ),
    ],
)
def test_shapes_that_a_native_class_cannot_say(family, shape, match, teacher, tmp_path):
    winner = sized(teacher(family), tmp_path / "winner", **shape)
    refused(winner, tmp_path / "hf", f"{match}.*leave --native away", native=True)
    export(ExportConfig(winner, tmp_path / "hf"))


def test_layerwise_is_not_native(teacher, tmp_path):
    for family in ("neox", "llama"):
        winner = cut(teacher(family), tmp_path / family, uniform=False)
        refused(winner, tmp_path / "hf", "its layers differ in width", native=True)


LLAMA = Config(
    name="small", n_layer=2, n_embd=16, n_head=4, n_query_groups=2, intermediate_size=24,
    block_size=32, vocab_size=60, padded_vocab_size=60, rotary_percentage=1.0, bias=False,
    parallel_residual=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"lm_head_bias": True}, "lm_head_bias True"),
        ({"post_mlp_norm": True}, "the norms of small"),
        ({"rotary_percentage": 0.8}, "odd number of channels, 3"),
        ({"rope_adjustments": {"factor": 2.0, "beta_fast": 32, "beta_slow": 1,
                               "original_max_seq_len": 16}}, "rope_adjustments"),
    ],
)  # fmt: skip
def test_what_no_export_can_say(changes, match, tmp_path):
    checkpoint.save(tmp_path / "model", GPT(replace(LLAMA, **changes)))
    refused(tmp_path / "model", tmp_path / "hf", f"no export can .*{match}")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"attention_scores_scalar": 16}, r"by the root of the head size \(4\), not of 16"),
        ({"rotary_percentage": 0.5}, "LlamaForCausalLM rotates heads as a whole"),
        ({"parallel_residual": True}, "one after the other"),
        ({"attention_logit_softcapping": 30.0}, "LlamaForCausalLM has no soft capping"),
        ({"final_logit_softcapping": 30.0}, "LlamaForCausalLM has no soft capping"),
        ({"scale_embeddings": True}, "LlamaForCausalLM cannot say the embeddings or the norms"),
        ({"name": "Gemma-small"}, "LlamaForCausalLM cannot say the embeddings or the norms"),
        ({"mlp_class_name": "GemmaMLP"}, "GemmaForCausalLM cannot say the embeddings"),
        ({"sliding_window_size": 8, "sliding_window_indices": [1, 0]}, "in all layers or in none"),
        (
            {"sliding_window_size": 8, "sliding_window_indices": [1, 1], "bias": True},
            "LlamaForCausalLM has no sliding window",
        ),
        ({"norm_qk": True, "attn_bias": True}, "no class of transformers computes what small"),
        ({"norm_class_name": "LayerNorm"}, "no class of transformers computes what small"),
    ],
)
def test_what_only_the_modelling_file_can_say(changes, match, tmp_path):
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "model", GPT(replace(LLAMA, **changes)))
    refused(tmp_path / "model", tmp_path / "hf", match, native=True)
    assert export(ExportConfig(tmp_path / "model", tmp_path / "hf"))["logit_difference"] < 2e-5


def test_logits_that_differ_are_refused(teacher, tmp_path, monkeypatch):
    winner = cut(teacher("llama"), tmp_path / "winner", uniform=True)
    monkeypatch.setattr(exports, "TOLERANCE", -1.0)
    refused(winner, tmp_path / "hf", "its logits differ by")
    result = export(ExportConfig(winner, tmp_path / "hf", verify=False))
    assert not result["verified"]


def test_places_that_cannot_be_written(teacher, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="exists already"):
        export(ExportConfig(teacher("llama"), tmp_path / "file"))
    with pytest.raises(UserError, match="hf is the only format"):
        ExportConfig(teacher("llama"), tmp_path / "out", to="gguf")
