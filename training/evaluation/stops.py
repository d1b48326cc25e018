"""Whether a continuation has come to what ends it, without decoding all of it for every token."""

from __future__ import annotations

from collections.abc import Sequence

from evo.model.tokenizer import Tokenizer

MARGIN = 4
"""Tokens that a window has more than the longest text has bytes: where it begins, a decoder may
strip a space, or make nothing of up to three bytes that are the rest of a character."""

DAMAGED = "\N{REPLACEMENT CHARACTER}" * 4
"""A window that begins with so many may lie within a run of bytes that only as a whole is text."""


class Stops:
    """What ends a continuation: a token, or one of some texts.

    Args:
        tokenizer: of the continuation.
        texts: none is empty.
        token: an id.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], token: int) -> None:
        self._tokenizer, self._texts, self._token = tokenizer, texts, token
        self._window = MARGIN + max((len(one.encode()) for one in texts), default=0)

    def end(self, tokens: Sequence[int]) -> bool:
        """Whether the last of these tokens ends them, where none before it did."""
        if tokens[-1] == self._token:
            return True
        return bool(self._texts) and self._may_end(tokens) and self._found(tokens)

    def _may_end(self, tokens: Sequence[int]) -> bool:
        """As the end of the text has it: every token that is known is at least a byte of it."""
        window: list[int] = []
        for token in reversed(tokens):
            if self._tokenizer.knows(token):
                window.append(token)
            if len(window) == self._window:
                break
        else:
            return True
        text = self._tokenizer.decode(window[::-1])
        return text.startswith(DAMAGED) or any(one in text for one in self._texts)

    def _found(self, tokens: Sequence[int]) -> bool:
        text = self._tokenizer.decode(tokens)
        return any(one in text for one in self._texts)

    def cut(self, tokens: Sequence[int]) -> str:
        """The text of tokens up to what ends it."""
        kept = [one for one in tokens if one != self._token]
        text = self._tokenizer.decode(kept, special=False)
        for one in self._texts:
            text = text.split(one)[0]
        return text
