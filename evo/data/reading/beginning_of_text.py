"""The beginning-of-text token, where `--bos` asks for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evo.data.reading import Reading
from evo.errors import UserError
from evo.model.tokenizer import Tokenizer


def beginning_of_text(reading: Reading, tokenizer: Tokenizer | None) -> int | None:
    """The id of the token that is put before documents or blocks; None where none is.

    Raises:
        UserError: one is asked for, and the tokenizer names none.
    """
    if reading.bos == "none":
        return None
    if tokenizer is None or tokenizer.beginning_of_text is None:
        raise UserError(
            f"--bos {reading.bos}: the checkpoint has no tokenizer that names a beginning-of-text "
            "token (`bos_token` in its tokenizer_config.json): give --bos none"
        )
    return tokenizer.beginning_of_text


def of_documents(reading: Reading, tokenizer: Tokenizer | None) -> int | None:
    """The id of the token that is put before documents; None where none is.

    Raises:
        UserError: as of `beginning_of_text`.
    """
    return beginning_of_text(reading, tokenizer) if reading.bos == "document" else None


def of_blocks(reading: Reading, tokenizer: Tokenizer | None) -> int | None:
    """The id of the token that is the first of each block; None where none is.

    Raises:
        UserError: as of `beginning_of_text`.
    """
    return beginning_of_text(reading, tokenizer) if reading.bos == "block" else None


def cut(stream: NDArray[np.int32], length: int, first: int | None) -> NDArray[np.int32]:
    """A stream of tokens in blocks; what is left over at its end is left out.

    Args:
        stream: token ids, shape [N].
        length: tokens of a block, T.
        first: the token with which each block begins; None: they begin where the last one ended.

    Returns:
        Shape [M, T].
    """
    width = length if first is None else length - 1
    blocks = stream[: len(stream) // width * width].reshape(-1, width)
    return blocks if first is None else np.insert(blocks, 0, first, axis=1)
