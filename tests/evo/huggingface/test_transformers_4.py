"""Native exports in transformers 4, which serving engines still bundle."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evo.huggingface.config import ExportConfig
from evo.huggingface.export_checkpoint import export
from evo.huggingface.import_checkpoint import ImportConfig, import_checkpoint
from tests.support.families import FAMILIES, GROUPED, SHAPE, write
from tests.support.winners import logits_of, tokens

VERSIONS = ("transformers==4.57.*", "huggingface_hub<1", "tokenizers<0.23")

LLAMA_3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
ROPES = {
    "llama-3": ("Llama", GROUPED | {"rope_scaling": LLAMA_3, "rope_theta": 50_000.0}),
    "llama-linear": ("Llama", GROUPED | {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "neox-base": ("GPTNeoX", SHAPE | {"rope_parameters": {"rope_type": "default",
                                                           "rope_theta": 500.0}}),
}  # fmt: skip

SCRIPT = """
import sys, torch, transformers
assert transformers.__version__.startswith("4.57"), transformers.__version__
tokens = torch.load(sys.argv[1])
for directory in sys.argv[2:]:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        torch.save(model(tokens).logits, directory + "/logits.pt")
"""


@pytest.fixture(scope="module")
def transformers_4(tmp_path_factory) -> Path:
    """A directory with the older version, to be put before the installed packages."""
    directory = tmp_path_factory.mktemp("transformers-4")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
    subprocess.run([*command, str(directory), *VERSIONS], check=True)
    return directory


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_native_exports_give_their_logits_in_transformers_4(transformers_4, tmp_path):
    exports = {}
    for name, family in (FAMILIES | ROPES).items():
        source = write(tmp_path / "hf" / name, *family)
        teacher = tmp_path / "teachers" / name
        import_checkpoint(ImportConfig(str(source), teacher))
        exports[teacher] = tmp_path / "exports" / name
        export(ExportConfig(teacher, exports[teacher], native=True))
    torch.save(tokens(), tmp_path / "tokens.pt")
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "tokens.pt"), *map(str, exports.values())],
        check=True,
        env=os.environ | {"PYTHONPATH": str(transformers_4), "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
    )
    for teacher, exported in exports.items():
        logits = torch.load(exported / "logits.pt")
        difference = (logits - logits_of(teacher, tokens())).abs().max().item()
        assert difference < 1e-4, f"{exported.name}: {difference}"
