"""Every field of every family's config.json as something that it should not be."""

import json
from pathlib import Path

import pytest

from evo.errors import UserError
from evo.huggingface.config import ExportConfig, ImportConfig
from evo.huggingface.export_checkpoint import export
from evo.huggingface.from_config import litgpt_network
from evo.huggingface.from_weights import litgpt_weights, read_weights
from evo.huggingface.import_checkpoint import import_checkpoint
from evo.huggingface.source_config import SourceConfig
from evo.model.tokenizer import load_tokenizer
from tests.support.bpe import write_tokenizer
from tests.support.families import FAMILIES, write
from tests.support.tried import tried
from tests.support.winners import cut

ODD = (None, [], ["x"], {}, "", "odd", -1, 0, 1.5, 10**12, 10**400, True, False)
"""In the place of each field of each family (`benchmarks/hostile_inputs.md` counts them)."""

OLDER = {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
OLDER |= {"rotary_pct": 0.25, "rotary_emb_base": 10000, "max_window_layers": 2}


QUICK = ("llama-tied", "gemma3")


@pytest.mark.parametrize(
    "family",
    [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES],
)
def test_a_field_that_is_odd_is_one_line_or_makes_no_difference(family, hf_checkpoint):
    source = hf_checkpoint(family)
    weights = read_weights(source)
    original = json.loads((source / "config.json").read_text())
    lines = []
    for name in original | OLDER:
        for value in ODD:
            config = SourceConfig(source / "config.json", {**original, name: value})
            try:
                network, widths = litgpt_network(config, None, "odd")
                litgpt_weights(config, network, weights, None, widths)
            except UserError as error:
                lines.append(str(error))
            tried("fields of a family's config.json")
    assert len(lines) > 100
    assert not [line for line in lines if "\n" in line or str(source) not in line]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', but true or false"),
        ({"model_type": ["llama"]}, "model_type .* cannot be imported"),
        ({"hidden_act": ["silu"]}, "hidden_act is .*, but a string is needed"),
        ({"rope_parameters": [1]}, "rope_parameters is .*, but an object of settings"),
        ({"eos_token_id": "x"}, "eos_token_id is 'x', but a token id or a list of them"),
        ({"max_position_embeddings": 10**12}, "at most"),
    ],
)
def test_what_the_line_says(changes, match, hf_checkpoint, tmp_path):
    source = write(tmp_path / "hf", *FAMILIES["llama"])
    fields = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(fields | changes))
    with pytest.raises(UserError, match=match):
        import_checkpoint(ImportConfig(str(source), tmp_path / "teacher"))
    assert not (tmp_path / "teacher").exists()


@pytest.mark.parametrize("role", [["a"], {"content": 1}, 7])
def test_a_token_that_is_no_text(role, tmp_path):
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": role}))
    with pytest.raises(UserError, match=r"eos_token is .*, but a token's text is needed"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("native", [True, False])
def test_settings_of_generation_survive(native: bool, tmp_path: Path):
    """Several ends, the padding and a temperature, from config.json and generation_config.json."""
    source = write(tmp_path / "hf", *FAMILIES["llama"])
    write_tokenizer(source)
    fields = json.loads((source / "config.json").read_text())
    ids = {"eos_token_id": [5, 7], "pad_token_id": 9}
    (source / "config.json").write_text(json.dumps(fields | ids))
    (source / "generation_config.json").write_text(json.dumps({"temperature": 0.6}))
    import_checkpoint(ImportConfig(str(source), tmp_path / "teacher"))
    winner = cut(tmp_path / "teacher", tmp_path / "winner", uniform=True)
    export(ExportConfig(winner, tmp_path / "out", native=native))
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {name: written[name] for name in ids} == ids
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert settings["temperature"] == 0.6
    assert settings["eos_token_id"] == [5, 7]


def test_a_slow_tokenizer_is_converted(tmp_path: Path):
    source = write(tmp_path / "hf", "GPTNeoX", FAMILIES["neox"][1])
    write_tokenizer(tmp_path / "fast")
    expected = load_tokenizer(tmp_path / "fast")
    model = json.loads((tmp_path / "fast" / "tokenizer.json").read_text())["model"]
    (source / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    (source / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    result = import_checkpoint(ImportConfig(str(source), tmp_path / "teacher"))
    assert result["tokenizer"]
    found = load_tokenizer(tmp_path / "teacher")
    assert expected is not None
    assert found is not None
    text = ["the quick brown fox"]
    assert found.encode(text)[0].tolist() == expected.encode(text)[0].tolist()
