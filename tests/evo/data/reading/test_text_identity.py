import json
import shutil
from pathlib import Path

import pytest

from evo.data.reading import PLAIN, Reading
from evo.data.reading import text_identity as module
from evo.data.reading.text_identity import text_identity
from evo.data.text_weights import check_weights
from evo.errors import UserError


@pytest.fixture(params=[2**30, 0], ids=["by content", "by names"])
def corpus(request, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "READ_BYTES", request.param)
    (tmp_path / "corpus" / "deep").mkdir(parents=True)
    (tmp_path / "corpus" / "a.txt").write_text("one")
    (tmp_path / "corpus" / "deep" / "b.jsonl").write_text(json.dumps({"text": "two"}))
    return tmp_path / "corpus"


def test_a_text_is_the_same_wherever_it_lies(corpus, tmp_path, monkeypatch):
    known = text_identity([str(corpus)], PLAIN)
    shutil.copytree(corpus, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for same in ("corpus", "./corpus", "moved", str(tmp_path / "moved"), "corpus/../moved/"):
        assert text_identity([same], PLAIN) == known
    assert text_identity([str(corpus)], Reading(text_field="body")) != known
    assert text_identity([str(corpus), str(tmp_path / "moved")], PLAIN) != known
    (corpus / "a.txt").write_text("other")
    assert text_identity([str(corpus)], PLAIN) != known


def test_a_text_in_two_spellings_is_given_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("one")
    Path("link.txt").symlink_to("a.txt")
    for other in ("./a.txt", str(tmp_path / "a.txt"), f"../{tmp_path.name}/a.txt", "link.txt"):
        with pytest.raises(UserError, match="each once"):
            check_weights(["a.txt", other], None)
    check_weights(["a.txt", "./b.txt", "hf:a:train", "hf:./a:train", "nul\0", "nul\0\0"], None)
