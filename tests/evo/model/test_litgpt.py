"""litgpt's networks without the packages that litgpt imports, and litgpt as ever afterwards."""

import pickle
import subprocess
import sys

import pytest

from evo.model.litgpt import Config, save_config

HEAVY = {
    "aiohttp",
    "datasets",
    "lightning",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "sympy",
    "torch._dynamo",
    "torchmetrics",
    "transformers",
}

LAZY = """
import evo.model.litgpt, sys
assert "lightning" not in sys.modules
"""

GENUINE = """
import litgpt
from litgpt import LLM
from evo.model.litgpt import GPT, Config, convert_hf_checkpoint
assert LLM.__module__ == "litgpt.api"
assert litgpt.GPT is litgpt.model.GPT is GPT
assert litgpt.Config is litgpt.config.Config is Config
assert litgpt.scripts.convert_hf_checkpoint is convert_hf_checkpoint
assert "save_config" in vars(litgpt.utils)
assert "lightning" in sys.modules and type(litgpt).__name__ == "module"
"""

STAND_IN = """
from pathlib import Path
from evo.model.litgpt import convert_hf_checkpoint
made = convert_hf_checkpoint.extend_checkpoint_dir(Path("/nowhere/at-all"))
from litgpt.utils import extend_checkpoint_dir
assert made == extend_checkpoint_dir(Path("/nowhere/at-all"))
"""


def run(code: str, content: bytes = b"") -> bytes:
    done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_the_scorer_loads_no_package_that_its_networks_do_not_need():
    loaded = run("import sys, workers.scoring.scorer; print(*sys.modules)").decode().split()
    assert {"litgpt.model", "torch"} <= set(loaded)
    assert not HEAVY & set(loaded)


@pytest.mark.slow
@pytest.mark.parametrize("code", [LAZY + "import litgpt.pretrain\n" + GENUINE, LAZY + STAND_IN])
def test_litgpt_is_whole_when_something_else_of_it_is_used(code):
    run(code)


@pytest.mark.slow
def test_litgpt_that_is_there_already_is_left_alone():
    run("import sys, litgpt; import evo.model.litgpt\n" + GENUINE)


@pytest.mark.parametrize(
    "module", [pytest.param("litgpt", marks=pytest.mark.slow), "evo.model.litgpt"]
)
def test_a_pickled_config_is_read_with_and_without_the_genuine_package(module):
    config = Config(n_layer=3, n_head=2, n_embd=8)
    code = f"import {module}, pickle, sys; print(pickle.load(sys.stdin.buffer).n_layer)"
    assert b"clitgpt.config\nConfig\n" in pickle.dumps(config, protocol=0)
    assert run(code, pickle.dumps(config)) == b"3\n"


def test_a_config_is_written_as_litgpt_writes_it(tmp_path):
    from litgpt import utils

    config = Config(n_layer=3, n_head=2, n_embd=8)
    save_config(config, tmp_path)
    written = (tmp_path / "model_config.yaml").read_bytes()
    utils.save_config(config, tmp_path)
    assert (tmp_path / "model_config.yaml").read_bytes() == written
