"""A checkpoint's tokenizer: `tokenizer.json`, as litgpt and Hugging Face write it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as FastTokenizer

from evo.errors import UserError, first_line
from evo.model.tokenizer_ids import content_hash, ids_of

GENERATION = "generation_config.json"

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    GENERATION,
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


class Tokenizer:
    """Text to token ids.

    Attributes:
        vocabulary: the largest token id + 1. (litgpt's `vocab_size` can be smaller: Pythia's
            runs of spaces lie beyond it.)
        end_of_text: the id that separates documents.
        beginning_of_text: the id with which a text is to begin; None where there is none.
        ids: what each token id means, to compare tokenizers.
        hash: of what decides the ids of a text, to key caches.

    Raises:
        UserError: the file is damaged, or it does not say which token ends a text.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "tokenizer.json"
        content = path.read_bytes()
        try:
            self._tokenizer = FastTokenizer.from_str(content.decode())
        except Exception as error:  # `tokenizers` raises bare Exceptions
            raise UserError(f"{path} is not a tokenizer: {first_line(error)}") from error
        # A stored limit on the length would silently cut every document.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.ids = ids_of(self._tokenizer)
        self.hash = content_hash(self._tokenizer)
        self.vocabulary = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.end_of_text = self._find_end_of_text(directory)
        self.beginning_of_text = self._named(directory, "bos_token")

    def _find_end_of_text(self, directory: Path) -> int:
        identifier = self._named(directory, "eos_token")
        if identifier is None:
            identifier = self._first_end_of_generation(directory)
        if identifier is None:
            identifier = self._tokenizer.token_to_id("<|endoftext|>")
        if identifier is None:
            raise UserError(
                f"{directory} does not say which token ends a text: give "
                "`eos_token` in tokenizer_config.json"
            )
        return identifier

    def _first_end_of_generation(self, directory: Path) -> int | None:
        ends = generation_settings(directory).get("eos_token_id")
        first = ends[0] if isinstance(ends, list) and ends else ends
        if first is not None and (type(first) is not int or not 0 <= first < self.vocabulary):
            raise UserError(
                f"{directory / GENERATION}: eos_token_id is {ends!r}, but the tokenizer has the "
                f"ids 0 to {self.vocabulary - 1}"
            )
        return first

    def _named(self, directory: Path, role: str) -> int | None:
        """The id of the token in a role (`eos_token`); None where none is named."""
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            if (directory / name).is_file():
                token = _json_object(directory / name).get(role)
                token = token.get("content") if isinstance(token, dict) else token
                if token is not None and not isinstance(token, str):
                    raise UserError(
                        f"{directory / name}: {role} is {token!r}, but a token's text is needed"
                    )
                identifier = self._tokenizer.token_to_id(token) if token else None
                if identifier is not None:
                    return identifier
        return None

    def encode(self, documents: Iterable[str]) -> list[NDArray[np.int32]]:
        """Token ids of each document, without special tokens."""
        texts = list(documents)
        try:
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:
            encodings = self._tokenizer.encode_batch_fast(
                list(map(_without_surrogates, texts)), add_special_tokens=False
            )
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def decode(self, tokens: Iterable[int]) -> str:
        """Decode token ids; special tokens are part of the text."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False)


def generation_settings(directory: Path) -> dict[str, Any]:
    """The settings of `generation_config.json`, empty where there is none.

    Raises:
        UserError: it is no JSON object.
    """
    path = directory / GENERATION
    return _json_object(path) if path.is_file() else {}


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object of settings")
    return content


def _without_surrogates(text: str) -> str:
    """A text as UTF-8 can hold it: halves of a pair joined, a lone one replaced by U+FFFD.

    JSON may hold lone surrogates, and `tokenizers` does not take them.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def load_tokenizer(directory: Path) -> Tokenizer | None:
    """The tokenizer in a checkpoint directory, or None where it has none.

    Raises:
        UserError: there is one, but not one that can be read.
    """
    if (directory / "tokenizer.json").is_file():
        return Tokenizer(directory)
    for slow in ("tokenizer.model", "vocab.json"):
        if (directory / slow).is_file():
            raise UserError(
                f"{directory} has only the slow tokenizer `{slow}`: convert it to "
                "`tokenizer.json` (transformers' `save_pretrained` writes one)"
            )
    return None
