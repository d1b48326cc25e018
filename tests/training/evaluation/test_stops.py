"""What ends a continuation, against decoding all of it after each token."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models

from evo.model.tokenizer import Tokenizer
from tests.support.bpe import TEXT, write_tokenizer
from training.evaluation.stops import Stops

TEXTS = ["\n\n", "fox", "é", "😀\n", " a", "zeb\nras", "Q:"]
SAID = TEXT + "é 😀\n你好😀 Q: zeb\nras\n\n"


class Counting(Tokenizer):
    """How many tokens have been decoded."""

    decoded = 0

    def decode(self, tokens: Iterable[int], *, special: bool = True) -> str:
        tokens = list(tokens)
        self.decoded += len(tokens)
        return super().decode(tokens, special=special)


def byte_level(directory: Path) -> Path:
    return write_tokenizer(directory)


def byte_fallback(directory: Path) -> Path:
    """As Llama 2 has it: a character that is no token is one for each of its bytes."""
    pieces = ["</s>", *(f"<0x{n:02X}>" for n in range(256)), "▁", *sorted(set(TEXT) - set(" \n"))]
    pieces += ["fo", "x▁", "▁a"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = FastTokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="</s>"))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    directory.mkdir(exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return directory


def first_end(tokenizer: Tokenizer, tokens: list[int], texts: list[str]) -> int | None:
    """From the definition."""
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:count])
        if tokens[count - 1] == tokenizer.end_of_text or any(one in text for one in texts):
            return count
    return None


def sequences(tokenizer: Tokenizer) -> Iterable[list[int]]:
    """Text, its bytes in any order, runs of bytes, and ids without a text among them."""
    rng = np.random.default_rng(0)
    said = tokenizer.encode_whole(SAID.replace(" ", "▁"), special=False)
    said += tokenizer.encode_whole(SAID, special=False)
    for _ in range(150):
        start, length = rng.integers(len(said)), rng.integers(1, 60)
        yield said[start : start + length]
        yield rng.choice(said, length).tolist()
        yield rng.integers(1, tokenizer.vocabulary + 20, length).tolist()
        yield (rng.integers(1, 257, 30).tolist() + said)[: 30 + length]


@pytest.mark.parametrize("write", [byte_level, byte_fallback])
def test_the_first_token_that_ends_it(write, tmp_path):
    tokenizer = Tokenizer(write(tmp_path / "tokenizer"))
    ends = 0
    for tokens in sequences(tokenizer):
        for texts in (TEXTS[:0], TEXTS[:1], TEXTS[1:2], TEXTS[2:4], TEXTS[4:5], TEXTS[5:]):
            stops = Stops(tokenizer, texts, tokenizer.end_of_text)
            counts = range(1, len(tokens) + 1)
            found = next((count for count in counts if stops.end(tokens[:count])), None)
            assert found == first_end(tokenizer, tokens, texts)
            ends += found is not None
    assert ends > 100


def test_the_work_grows_with_the_tokens(tmp_path):
    tokenizer = Counting(write_tokenizer(tmp_path))
    tokens = tokenizer.encode_whole("zebras jump, while " * 200, special=False)
    stops = Stops(tokenizer, ["\n\n", "Question:"], tokenizer.end_of_text)
    assert not any(stops.end(tokens[: count + 1]) for count in range(len(tokens)))
    assert len(tokens) > 600
    assert tokenizer.decoded < 20 * len(tokens)


def test_what_is_cut(tmp_path):
    tokenizer = Tokenizer(write_tokenizer(tmp_path))
    stops = Stops(tokenizer, ["\n\n", "Q:"], tokenizer.end_of_text)
    tokens = tokenizer.encode_whole("a fox Q: b\n\nc", special=False)
    assert stops.cut([*tokens, tokenizer.end_of_text]) == "a fox "
