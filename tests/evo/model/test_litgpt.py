"""litgpt without transformers, and transformers as ever afterwards."""

import subprocess
import sys

from evo.model.litgpt import _transformers_later

CODE = """
import sys
import evo.model.litgpt
assert "transformers" not in sys.modules
from torchmetrics.functional.text import bert
assert "transformers" not in sys.modules
stand_in = bert.AutoTokenizer
made = stand_in.from_pretrained
from transformers import AutoTokenizer
assert stand_in is not AutoTokenizer
assert made == AutoTokenizer.from_pretrained
import litgpt
assert evo.model.litgpt.GPT is litgpt.GPT
print("well")
"""


def test_transformers_is_imported_when_it_is_first_used():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.stdout == "well\n", done.stderr


def test_transformers_that_is_there_already_is_left_alone():
    import transformers

    with _transformers_later():
        assert sys.modules["transformers"] is transformers
    assert sys.modules["transformers"] is transformers
