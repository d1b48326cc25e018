"""The same token ids by content: tokenizers written again by the libraries, and changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from evo.model.tokenizer import Tokenizer
from tests.support.bpe import TEXT, write_tokenizer

PYTHIA = pytest.param(
    "pythia",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif("EVO_DATA" not in os.environ, reason="EVO_DATA is not set"),
    ],
)


@pytest.fixture(scope="module", params=["small", PYTHIA])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    if request.param == "pythia":
        source = Path(os.environ["EVO_DATA"]) / "pythia-tokenizer.json"
        shutil.copy(source, directory / "tokenizer.json")
    return directory


def content_of(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "tokenizer.json").read_text())
    return content


def changed(directory: Path, to: Path, change: Callable[[dict[str, Any]], object]) -> Tokenizer:
    """The tokenizer with its JSON changed."""
    shutil.copytree(directory, to)
    content = content_of(directory)
    change(content)
    (to / "tokenizer.json").write_text(json.dumps(content, indent=3))
    return Tokenizer(to)


def vocabulary_in_another_order(content: dict[str, Any]) -> None:
    content["model"]["vocab"] = dict(reversed(content["model"]["vocab"].items()))


def merges_as_strings(content: dict[str, Any]) -> None:
    """As `tokenizers` wrote them before version 0.20."""
    merges = content["model"]["merges"]
    content["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in merges]


def without_defaults(content: dict[str, Any]) -> None:
    for name in ("byte_fallback", "ignore_merges"):
        content["model"].pop(name, None)
    content["pre_tokenizer"].pop("use_regex", None)
    content["model"]["end_of_word_suffix"] = ""


def in_a_sequence(content: dict[str, Any]) -> None:
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [content["pre_tokenizer"]]}


@pytest.mark.parametrize(
    "change",
    [
        lambda content: None,
        lambda content: content.update(dict(reversed(content.items()))),
        vocabulary_in_another_order,
        merges_as_strings,
        without_defaults,
        in_a_sequence,
        lambda content: content.update(decoder=None, post_processor=None),
        lambda content: content["pre_tokenizer"].update(trim_offsets=False),
    ],
)  # fmt: skip
def test_what_changes_no_id_is_the_same(
    change: Callable[[dict[str, Any]], object], directory: Path, tmp_path: Path
) -> None:
    before, after = Tokenizer(directory), changed(directory, tmp_path / "other", change)
    assert after.hash == before.hash
    assert after.ids.include(before.ids)
    assert before.ids.include(after.ids)
    for one, other in zip(
        before.encode([TEXT, "  a\n"]), after.encode([TEXT, "  a\n"]), strict=True
    ):
        assert one.tolist() == other.tolist()


def test_saved_again_by_transformers_is_the_same(directory: Path, tmp_path: Path) -> None:
    library = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(directory / "tokenizer.json"), eos_token="<|endoftext|>"
    )
    library.save_pretrained(tmp_path)
    assert Tokenizer(tmp_path).hash == Tokenizer(directory).hash


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["model"]["merges"].pop(),
        lambda content: content["model"]["merges"].reverse(),
        lambda content: content.update(normalizer={"type": "Lowercase"}),
        lambda content: content["pre_tokenizer"].update(add_prefix_space=True),
        lambda content: content["pre_tokenizer"].update(use_regex=False),
        lambda content: content["model"].update(ignore_merges=True),
        lambda content: content["added_tokens"][0].update(lstrip=True),
    ],
)
def test_what_may_change_ids_is_another(
    change: Callable[[dict[str, Any]], object], directory: Path, tmp_path: Path
) -> None:
    before, after = Tokenizer(directory), changed(directory, tmp_path / "other", change)
    assert after.hash != before.hash


def test_swapped_tokens_are_other_ids(directory: Path, tmp_path: Path) -> None:
    def swap(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]

    before, after = Tokenizer(directory), changed(directory, tmp_path / "other", swap)
    assert before.encode(["a"])[0] != after.encode(["a"])[0]
    assert not after.ids.include(before.ids)


def test_more_added_tokens_include_those_that_are_there(directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory, tmp_path / "more")
    library = FastTokenizer.from_file(str(directory / "tokenizer.json"))
    library.add_special_tokens(["<|user|>", "<|assistant|>"])
    library.add_tokens([AddedToken("<think>", normalized=False)])
    library.save(str(tmp_path / "more" / "tokenizer.json"))
    few, more = Tokenizer(directory), Tokenizer(tmp_path / "more")
    assert more.ids.include(few.ids)
    assert not few.ids.include(more.ids)
    assert more.hash != few.hash  # a text with `<|user|>` has other ids

    def rename(content: dict[str, Any]) -> None:
        content["added_tokens"][-1]["content"] = "<thought>"

    renamed = changed(tmp_path / "more", tmp_path / "renamed", rename)
    assert not renamed.ids.include(more.ids)
    assert renamed.ids.include(few.ids)
