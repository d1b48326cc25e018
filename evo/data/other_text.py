"""Sequences of a text that another use of it has left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from evo.data.fitness_text import Mixture
from evo.data.token_blocks import Text, Tokens
from evo.errors import UserError

ROOM = 4
"""So many times as many sequences are read as are needed, as some of them are in use."""


def other_blocks(
    load: Callable[[str, int | None], Text], sources: Sequence[str], used: Mixture, count: int
) -> Tokens:
    """Sequences that are in none of those in use, evenly spaced in each source.

    Args:
        load: reads a source, at most so many tokens of it.
        sources: see `evo.data.sources`; each gives an even part.
        used: the sequences in use.
        count: of sequences, at most.

    Returns:
        Token ids, shape [M, T], source after source; M may be 0.

    Raises:
        UserError: a source that cannot be read, or has sequences of another length.
    """
    length, known = used.blocks.shape[1], {row.tobytes() for row in used.blocks}
    sizes = {text.source: text.tokens for text in used.texts}
    share = -(-count // len(sources))
    found = []
    for source in sources:
        blocks = load(source, sizes.get(source, 0) + ROOM * share * length).blocks
        if blocks.shape[1] != length:
            raise UserError(
                f"{source} has sequences of {blocks.shape[1]} tokens, and the fitness text of "
                f"{length}: give a text with as many"
            )
        others = blocks[[row.tobytes() not in known for row in blocks]]
        places = np.linspace(0, len(others) - 1, min(share, len(others))).astype(np.int64)
        found.append(others[places])
    return np.concatenate(found)[:count]
