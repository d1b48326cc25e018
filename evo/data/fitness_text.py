"""The fitness text: one source, or several with weights, as sequences with weights.

Fitness is the sum over sources of weight times mean loss per token there. As sequences of all
sources are of one length, that is a weighted mean over sequences: those of a source share its
weight evenly. Without weights every token counts alike, so that sources weigh by their length.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo.data.text_weights import check_weights
from evo.data.token_blocks import Text, Tokens
from evo.errors import UserError


@dataclass(frozen=True)
class Mixture:
    """Sources and how much each counts.

    Attributes:
        texts: one or several.
        shares: of the fitness, one of each text, adding up to 1; None: by tokens.

    Raises:
        UserError: the sequences are not of one length.
    """

    texts: tuple[Text, ...]
    shares: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        lengths = {text.source: text.blocks.shape[1] for text in self.texts}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{source} of {length}" for source, length in lengths.items())
            raise UserError(f"sequences of --text must be of one length, but there are {listed}")

    @cached_property
    def blocks(self) -> Tokens:
        """Token ids, shape [N, T], source after source."""
        return np.concatenate([text.blocks for text in self.texts])

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """The weight of each sequence, shape [N], 1 on average."""
        counts = [len(text.blocks) for text in self.texts]
        if self.shares is None:
            return np.ones(sum(counts))
        each = [
            share * sum(counts) / count for share, count in zip(self.shares, counts, strict=True)
        ]
        return np.repeat(each, counts)

    @property
    def hash(self) -> str:
        """16 hexadecimal digits over blocks and weights; a single source's own hash."""
        if len(self.texts) == 1:
            return self.texts[0].hash
        digest = hashlib.blake2b(" ".join(text.hash for text in self.texts).encode(), digest_size=8)
        digest.update(self.weights.tobytes())
        return digest.hexdigest()

    @property
    def note(self) -> str:
        """What else identifies the sources."""
        return ", ".join(sorted({text.note for text in self.texts} - {""}))

    def summary(self) -> dict[str, Any]:
        """For a run's summary: plain values."""
        return {
            "source": " + ".join(text.source for text in self.texts),
            "blocks": list(self.blocks.shape),
            "hash": self.hash,
            "note": self.note,
            "sources": [
                {
                    "source": text.source,
                    "blocks": list(text.blocks.shape),
                    "hash": text.hash,
                    "share": share,
                }
                for text, share in zip(self.texts, self._shares(), strict=True)
            ],
        }

    def _shares(self) -> list[float]:
        if self.shares is not None:
            return list(self.shares)
        return [len(text.blocks) / len(self.blocks) for text in self.texts]


def load_mixture(
    load: Callable[[str, int | None], Text],
    sources: Sequence[str],
    weights: Sequence[float] | None,
    max_tokens: int | None,
) -> Mixture:
    """Read sources.

    Args:
        load: reads one, at most so many tokens of it.
        sources: see `evo.data.sources`; each once.
        weights: of each; need not add up to 1. None: by tokens.
        max_tokens: of all together; each source gives at most an even part.

    Raises:
        UserError: weights that fit no sources, or a source that cannot be used.
    """
    check_weights(sources, weights)
    limit = None if max_tokens is None else max_tokens // len(sources)
    texts = tuple(load(source, limit) for source in sources)
    if weights is None or len(texts) == 1:
        return Mixture(texts)
    return Mixture(texts, tuple(weight / math.fsum(weights) for weight in weights))
