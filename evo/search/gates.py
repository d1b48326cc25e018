"""Gradients of the gates of a search's elites: asked for one at a time, kept in files. No Ray.

Before a generation is proposed, the gradient of one more elite is taken on some sequences of a text
that no fitness is measured on, others each time: on the fitness text the gradients would learn it.
Every sequence is a unit of work of its own, so that a pool shares them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evo.genome.cost import Architecture, forward_flops
from evo.genome.operators.gate_swaps import GateGradients, Gradient
from evo.genome.subnet import Subnet, Widths
from evo.search.shard_score import ShardScore
from evo.storage.files import output_errors, write_whole
from evo.storage.records import reading

logger = logging.getLogger("evo.search")

SEQUENCES = 8
"""Sequences of a gradient."""

TEXT_SEQUENCES = 64
"""Sequences that take turns, at most."""

MOST_FAILURES = 3
"""After so many gradients that could not be had, a search asks for no more."""

PASSES = 3
"""Forward passes that a gradient counts as: one, the same again on the way back, as no block keeps
its activations, and the backward pass, in which weights need no gradients."""


@dataclass(frozen=True)
class GateText:
    """Where gradients are taken.

    Attributes:
        start: the first of these sequences among all that workers have.
        stop: the sequence after the last.
        length: tokens of a sequence.
    """

    start: int
    stop: int
    length: int

    def rows(self, generation: int) -> list[int]:
        """The sequences of a generation's gradient: all take turns."""
        count = self.stop - self.start
        begin = generation * SEQUENCES
        return [self.start + (begin + place) % count for place in range(min(SEQUENCES, count))]


class Gates:
    """The gradients of a search.

    Args:
        directory: of their files.
        text: where they are taken.
        architecture: of the teacher.
        state: what `state` gave when the last generation ended; None for a new search.

    Attributes:
        known: by candidate; None where it could not be had.
        failures: how many could not be had so far.
        flops: of all gradients so far.

    Raises:
        UserError: a file is missing or damaged.
    """

    def __init__(
        self,
        directory: Path,
        text: GateText,
        architecture: Architecture,
        state: Mapping[str, Any] | None,
    ) -> None:
        self.directory, self.text, self._architecture = directory, text, architecture
        self.known: dict[str, GateGradients | None] = {}
        self.flops = self.failures = 0
        self._candidate: Subnet | None = None
        self._generation: int | None = None
        self._rows: list[int] = []
        self._parts: dict[int, GateGradients] = {}
        if state is not None:
            self.flops, self.failures = state["flops"], state["failures"]
            self.known = {name: self._load(name) for name in state["known"]}
            self.known |= dict.fromkeys(state["failed"])

    @property
    def hopeless(self) -> bool:
        """Whether no more gradients are to be asked for."""
        return self.failures >= MOST_FAILURES

    def asked_in(self, generation: int) -> bool:
        """Whether a gradient has been asked for before this generation: one is, at most."""
        return self._generation == generation

    @property
    def awaited(self) -> bool:
        """Whether a gradient has been asked for and is not there."""
        return self._candidate is not None

    def open(self, candidate: Subnet, generation: int) -> list[tuple[int, int]]:
        """Ask for the gradient of a candidate.

        Returns:
            The number of each part and the sequence that it is taken on; none where an earlier
            start has left the gradient.
        """
        self._generation = generation
        if self._file(candidate.id).is_file():
            self._keep(candidate, self._load(candidate.id))
            return []
        if self._failure(candidate.id).is_file():
            self._give_up(candidate)
            return []
        self._candidate, self._rows, self._parts = candidate, self.text.rows(generation), {}
        return list(enumerate(self._rows))

    def take(self, parts: Mapping[tuple[str, int], GateGradients | ShardScore]) -> list[str]:
        """Take in parts of the gradient that was asked for, by candidate and the part's number.

        Returns:
            The candidate, where its gradient cannot be had, and its other parts are of no use.
        """
        failed = []
        for (name, number), part in parts.items():
            candidate = self._candidate
            if candidate is None or name != candidate.id:
                continue
            if isinstance(part, ShardScore):
                self._end(candidate, None, part.failure or "")
                failed.append(name)
                continue
            self._parts[number] = part
            if len(self._parts) == len(self._rows):
                # In the order of the sequences, not of their arrival.
                found = _mean([self._parts[number] for number in sorted(self._parts)])
                finite = all(np.isfinite(values).all() for values in vars(found).values())
                self._end(candidate, found if finite else None, "it is not finite")
        return failed

    def state(self, elites: Collection[str]) -> dict[str, Any]:
        """What is to be written down when a generation has ended; forgets all but the elites'."""
        self.known = {name: found for name, found in self.known.items() if name in elites}
        known = sorted(name for name, found in self.known.items() if found is not None)
        return {
            "known": known,
            "failed": sorted({*self.known} - {*known}),
            "failures": self.failures,
            "flops": self.flops,
        }

    def stale(self) -> list[Path]:
        """The files of gradients that are of no use once the present state is on disk."""
        return [path for path in self.directory.glob("*.*") if path.stem not in self.known]

    def forget_later(self, candidate: Subnet | None) -> None:
        """Delete gradients of generations whose beginning was lost in a crash.

        Args:
            candidate: whose gradient the next generation needs; it may be there.
        """
        for path in self.stale():
            if candidate is None or path.stem != candidate.id:
                with output_errors(path):
                    path.unlink()

    def _end(self, candidate: Subnet, found: GateGradients | None, reason: str) -> None:
        self._candidate = None
        if found is None:
            logger.warning("candidate %s has no gradient: %s", candidate.id, reason)
            write_whole(self._failure(candidate.id), reason + "\n")
            self._give_up(candidate)
        else:
            found.save(self._file(candidate.id))
            self._keep(candidate, found)

    def _keep(self, candidate: Subnet, found: GateGradients) -> None:
        self.known[candidate.id] = found
        full, layers = self._architecture.full_widths, int(candidate.layers.sum())
        widths = Widths(
            full.channels, full.groups[:layers], full.neurons[:layers], candidate.head_size
        )
        length = self.text.length
        per_token = forward_flops(self._architecture, widths, length)
        self.flops += PASSES * len(self.text.rows(0)) * length * per_token

    def _give_up(self, candidate: Subnet) -> None:
        self.known[candidate.id] = None
        self.failures += 1

    def _failure(self, candidate: str) -> Path:
        return self.directory / f"{candidate}.failed"

    def _file(self, candidate: str) -> Path:
        return self.directory / f"{candidate}.npz"

    def _load(self, candidate: str) -> GateGradients:
        path = self._file(candidate)
        with reading(path, "remove the search's directory to search anew"):
            return GateGradients.load(path)


def _mean(parts: list[GateGradients]) -> GateGradients:
    """The mean of the gradients on single sequences, which are all of one length."""

    def mean(name: str) -> Gradient:
        rows = [getattr(part, name) for part in parts]
        return np.asarray(np.mean(rows, axis=0, dtype=np.float64), np.float32)

    return GateGradients(mean("channels"), mean("groups"), mean("neurons"))
