"""The text on which a search takes gradients of gates, which is no part of the fitness text."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from evo.commands.search.config import REST, SearchConfig
from evo.data.fitness_text import Mixture
from evo.data.hub import pin_optional
from evo.data.other_text import other_blocks
from evo.data.token_blocks import Text, Tokens
from evo.errors import UserError
from evo.search.gates import SEQUENCES, TEXT_SEQUENCES
from evo.search.run_files import read_settled
from evo.search.screening.stages import spread

logger = logging.getLogger("evo.search")


def gate_text(config: SearchConfig) -> str | None:
    """The text of gradients, None for none: as when the first fine space was begun, where the user
    does not say.

    Raises:
        UserError: a data set that cannot be opened, or settings that cannot be read.
    """
    if config.gate_text is not None:
        return pin_optional(config.gate_text, config.out, "gate_text") if config.gates else None
    settled = read_settled(config.out)
    if settled is not None and any(name.startswith("fine") for name in settled.get("spaces", ())):
        return settled.get("gate_text")
    return REST if config.can_gate and config.max_tokens is not None else None


def read_gate_blocks(
    config: SearchConfig,
    load: Callable[[str, int | None], Text],
    text: Mixture,
    *,
    optional: bool,
) -> tuple[SearchConfig, Tokens]:
    """Read the text of gradients.

    Args:
        config: with the text as `gate_text` gave it.
        load: reads a source, at most so many tokens of it.
        text: the fitness text.
        optional: whether the search may do without, as the user has not asked for gradients.

    Returns:
        The settings, and sequences of shape [M, T], every beginning evenly spread. Without a text
        of gradients, M is 0.

    Raises:
        UserError: the text cannot be read, or has too few other sequences.
    """
    none = text.blocks[:0]
    if config.gate_text is None:
        return config, none
    sources = config.sources if config.gate_text == REST else [config.gate_text]
    found = other_blocks(load, sources, text, TEXT_SEQUENCES)
    if len(found) >= SEQUENCES:
        return config, found[spread(len(found))]
    if optional:
        logger.info("too little text is left for gradients of gates: --gate-text names another")
        return replace(config, gate_text=None), none
    raise UserError(
        f"--gate-text {config.gate_text} has {len(found)} sequences of {text.blocks.shape[1]} "
        f"tokens besides those of --text: give a text with at least {SEQUENCES}"
    )
