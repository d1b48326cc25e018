"""Import, search, export, fine-tuning in transformers, and the way back."""

from pathlib import Path

import pytest
import torch

from evo.huggingface.config import ExportConfig, ImportConfig
from evo.huggingface.export_checkpoint import export, reloaded
from evo.huggingface.import_checkpoint import import_checkpoint
from evo.model import checkpoint
from tests.support.families import FAMILIES, write
from tests.support.winners import cut, logits_of, tokens


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_an_export_says_is_read_back(family: str, uniform: bool, teacher, tmp_path: Path):
    winner = cut(teacher(family), tmp_path / "winner", uniform=uniform)
    export(ExportConfig(winner, tmp_path / "hf"))
    result = import_checkpoint(ImportConfig(str(tmp_path / "hf"), tmp_path / "back"))
    assert result["logit_difference"] < 2e-5
    stored, back = checkpoint.load(winner), checkpoint.load(tmp_path / "back")
    assert (back.widths, back.tied) == (stored.widths, stored.tied)
    expected = logits_of(winner, tokens())
    assert expected.abs().max() > 0.1
    assert torch.equal(logits_of(tmp_path / "back", tokens()), expected)


@pytest.mark.parametrize("uniform", [True, False])
def test_a_winner_comes_back_from_fine_tuning_in_transformers(uniform: bool, teacher, tmp_path):
    winner = cut(teacher("gemma3"), tmp_path / "winner", uniform=uniform)
    export(ExportConfig(winner, tmp_path / "hf"))
    model = reloaded(tmp_path / "hf", native=False).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(10):
        loss = model(tokens(), labels=tokens()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path / "tuned")
    import_checkpoint(ImportConfig(str(tmp_path / "tuned"), tmp_path / "back"))
    with torch.inference_mode():
        expected = model.eval()(tokens()).logits
    torch.testing.assert_close(logits_of(tmp_path / "back", tokens()), expected, atol=2e-5, rtol=0)
    again = cut(tmp_path / "back", tmp_path / "again", uniform=True) if uniform else None
    assert again is None or checkpoint.load(again).widths.is_uniform


def test_one_file_counts_before_the_index_of_an_earlier_save(tmp_path: Path):
    """And neither an average of the weights beside it, nor other shards."""
    source = write(tmp_path / "hf", *FAMILIES["llama"])
    (source / "model.safetensors.index.json").write_text('{"weight_map": {"x": "gone"}}')
    other = write(tmp_path / "other", "Llama", FAMILIES["llama"][1] | {"vocab_size": 100})
    for name in ("model_ema.safetensors", "model-00001-of-00002.safetensors"):
        (other / "model.safetensors").rename(source / name)
        write(other, "Llama", FAMILIES["llama"][1] | {"vocab_size": 100})
    result = import_checkpoint(ImportConfig(str(source), tmp_path / "teacher"))
    assert result["logit_difference"] < 2e-5


def test_names_without_the_base_models_prefix(tmp_path: Path):
    from tests.support.families import random_model

    source = write(tmp_path / "hf", *FAMILIES["llama-tied"])
    random_model(*FAMILIES["llama-tied"]).model.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "model.safetensors").rename(source / "model.safetensors")
    result = import_checkpoint(ImportConfig(str(source), tmp_path / "teacher"))
    assert result["logit_difference"] < 2e-5


def test_two_equal_matrices_stay_two(tmp_path: Path):
    """Tied or not is what the config says, through import and export."""
    from tests.support.families import random_model

    model = random_model(*FAMILIES["llama"])
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    model.save_pretrained(tmp_path / "hf")
    result = import_checkpoint(ImportConfig(str(tmp_path / "hf"), tmp_path / "teacher"))
    assert not checkpoint.load(tmp_path / "teacher").tied
    exported = export(ExportConfig(tmp_path / "teacher", tmp_path / "out", native=True))
    assert exported["parameters"] == result["parameters"]
