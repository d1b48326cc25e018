import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import processors

from evo.errors import UserError
from evo.model.tokenizer import Tokenizer, load_tokenizer
from tests.support.bpe import TEXT, write_tokenizer


def refused(directory, match):
    with pytest.raises(UserError, match=match) as caught:
        load_tokenizer(directory)
    assert "\n" not in str(caught.value)


def test_tokens_are_those_of_transformers(tmp_path):
    tokenizer = Tokenizer(write_tokenizer(tmp_path))
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [TEXT, "daft  zebras\n\n", "äöü € 你好", ""]
    encoded = tokenizer.encode(texts)
    assert [ids.tolist() for ids in encoded] == [reference.encode(text) for text in texts]
    assert {ids.dtype for ids in encoded} == {np.dtype(np.int32)}
    assert [tokenizer.decode(ids) for ids in encoded] == texts
    assert tokenizer.vocabulary == len(reference) == 300
    assert tokenizer.end_of_text == reference.eos_token_id == 0


def test_a_stored_limit_on_the_length_cuts_nothing(tmp_path):
    write_tokenizer(tmp_path)
    whole = Tokenizer(tmp_path).encode([TEXT, "a"])
    limited = FastTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    limited.enable_truncation(4)
    limited.enable_padding()
    limited.save(str(tmp_path / "tokenizer.json"))
    for ids, expected in zip(Tokenizer(tmp_path).encode([TEXT, "a"]), whole, strict=True):
        assert ids.tolist() == expected.tolist()


def test_a_lone_surrogate_is_replaced(tmp_path):
    tokenizer = Tokenizer(write_tokenizer(tmp_path))
    lone, pair = json.loads(r'"a \ud800 b"'), "\ud83d" + "\ude00"
    encoded = tokenizer.encode(["daft", lone, pair])
    assert [tokenizer.decode(ids) for ids in encoded] == ["daft", "a \ufffd b", "\U0001f600"]


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("token", ["!", {"content": "!"}])
def test_which_token_ends_a_text(name, token, tmp_path):
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer(tmp_path).end_of_text == 0  # <|endoftext|>, where nothing is said
    (tmp_path / name).write_text(json.dumps({"eos_token": token}))
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.decode([tokenizer.end_of_text]) == "!"


def test_special_tokens(tmp_path):
    """Around a whole text and in it, by the one name that the directory gives them."""
    write_tokenizer(tmp_path)
    assert Tokenizer(tmp_path).beginning_of_text is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|endoftext|>"}))
    library = FastTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.beginning_of_text == 0
    bare = tokenizer.encode([TEXT])[0].tolist()
    assert 0 not in bare
    assert tokenizer.decode([0, *bare]) == f"<|endoftext|>{TEXT}"


def test_what_is_missing_or_damaged(tmp_path):
    assert load_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.model").write_bytes(b"")
    refused(tmp_path, "has only the slow tokenizer `tokenizer.model`")
    path = write_tokenizer(tmp_path) / "tokenizer.json"
    content = path.read_text()
    (tmp_path / "tokenizer_config.json").write_text("{")
    refused(tmp_path, "is no JSON")
    (tmp_path / "tokenizer_config.json").unlink()
    path.write_text(content.replace("<|endoftext|>", "<|other|>"))
    refused(tmp_path, "which token ends a text")
    for damaged in (content[:1000].encode(), b"\xff", b"", b"[]"):
        path.write_bytes(damaged)
        refused(tmp_path, "is not a tokenizer")


@pytest.mark.skipif("EVO_DATA" not in os.environ, reason="EVO_DATA is not set")
def test_pythias_tokenizer(tmp_path):
    shutil.copy(Path(os.environ["EVO_DATA"]) / "pythia-tokenizer.json", tmp_path / "tokenizer.json")
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.vocabulary == 50277  # more than the 50254 that litgpt says
    assert tokenizer.end_of_text == 0
    (spaces,) = tokenizer.encode([" " * 24])
    assert spaces.max() >= 50254
    assert tokenizer.decode(spaces) == " " * 24
