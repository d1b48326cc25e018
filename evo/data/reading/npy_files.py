"""Files of token ids, as numpy writes them: 1-D is a stream, 2-D is one block per row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evo.data.sources import SourceRange, paths_of
from evo.errors import UserError, first_line

Tokens = NDArray[np.int32]

NPY_CHUNK = 2**20


def npy_tokens(part: SourceRange) -> Iterator[Tokens]:
    """The token ids of a `.npy` file, as they are.

    Raises:
        UserError: it cannot be read, has rows, or has documents that are to begin with a token.
    """
    if part.reading.bos == "document":
        raise UserError(
            f"--bos document: {part.name} holds token ids, and where documents begin in it is not "
            "known: give --bos block or none"
        )
    tokens = load_npy(Path(part.name))
    if tokens.ndim > 1:
        raise UserError(
            f"{part.name} has rows, each a block of its own, which cannot be joined with other "
            "text: make it 1-D, or use it alone"
        )
    stop = len(tokens) if part.stop is None else part.stop
    for start in range(part.start, stop, NPY_CHUNK):
        yield tokens[start : min(start + NPY_CHUNK, stop)]


def load_npy(path: Path) -> Tokens:
    """Token ids, memory-mapped, of whatever integers the file has.

    Raises:
        UserError: it is no such file.
    """
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises whatever Python's parser does of the file's header
        raise UserError(f"{path} is no .npy file of token ids: {first_line(error)}") from error
    if not isinstance(tokens, np.ndarray):  # an archive of several
        raise UserError(f"{path} is no .npy file of token ids, but an .npz archive")
    if not np.issubdtype(tokens.dtype, np.integer) or tokens.ndim not in (1, 2) or not tokens.size:
        raise UserError(
            f"{path} holds {tokens.dtype} of shape {tokens.shape}: token ids are "
            "integers, 1-D (a stream) or 2-D (one block per row), and not empty"
        )
    if tokens.ndim == 2 and tokens.shape[1] < 2:
        raise UserError(f"{path} has rows of one token: there is nothing to predict")
    return tokens


def has_rows(source: str) -> bool:
    """Whether a source is 2-D `.npy` files, of which each row is a block; reads only their heads.

    Raises:
        UserError: they are of different shapes, or no such files.
    """
    if (
        source.startswith(("stdlib:", "hf:"))
        or not source.endswith(".npy")
        or Path(source).is_dir()
    ):
        return False
    shapes = {load_npy(path).shape[1:] for path in paths_of(source)}
    if len(shapes) > 1:
        raise UserError(f"{source} mixes .npy files of different shapes")
    return shapes != {()}
