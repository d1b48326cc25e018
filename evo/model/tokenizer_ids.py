"""What decides which token ids a text gets, and what each of them means.

Two files of a tokenizer can differ in every byte and give the same ids: libraries indent them
otherwise, write merges as pairs or as strings, and leave defaults out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

FOR_IDS = ("model", "normalizer", "pre_tokenizer")
"""These parts split a text; the decoder, offsets and what is put around a text are others."""

PREFIXES = ("continuing_subword_prefix", "end_of_word_suffix")
"""Settings of a BPE for which an empty text is as good as none."""


@dataclass(frozen=True)
class TokenizerIds:
    """The token ids of a tokenizer.

    Attributes:
        parts: hash of vocabulary, merges, normaliser and pre-tokeniser.
        added: id of each added token, special ones included, by its text.
    """

    parts: str
    added: Mapping[str, int]

    def include(self, other: TokenizerIds) -> bool:
        """Whether each id of the other tokenizer means the same here; there may be more here."""
        return self.parts == other.parts and other.added.items() <= self.added.items()


def ids_of(tokenizer: FastTokenizer) -> TokenizerIds:
    """The token ids of a tokenizer."""
    content = _content(tokenizer)
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    return TokenizerIds(_hash([content[part] for part in FOR_IDS]), added)


def content_hash(tokenizer: FastTokenizer) -> str:
    """A hash that two tokenizers share if they split every text into the same ids."""
    content = _content(tokenizer)
    return _hash([content[part] for part in (*FOR_IDS, "added_tokens")])


def _content(tokenizer: FastTokenizer) -> dict[str, Any]:
    """A tokenizer as its library writes it now, whichever version or library wrote its file."""
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    model = content["model"]
    model.update({name: None for name in PREFIXES if model.get(name) == ""})
    content["pre_tokenizer"] = _without_offsets(content["pre_tokenizer"])
    content["added_tokens"] = [
        {name: value for name, value in token.items() if name != "special"}
        for token in content["added_tokens"]
    ]
    return content


def _without_offsets(pre_tokenizer: Any) -> Any:
    """A pre-tokeniser without what it says of the places of tokens, and not bundled with nothing
    else."""
    if not isinstance(pre_tokenizer, dict):
        return pre_tokenizer
    inner = [_without_offsets(each) for each in pre_tokenizer.get("pretokenizers", ())]
    if len(inner) == 1:
        return inner[0]
    kept = {name: value for name, value in pre_tokenizer.items() if name != "trim_offsets"}
    return kept | {"pretokenizers": inner} if inner else kept


def _hash(content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
