"""What there is of a generation until it has ended: its scores, and perhaps its candidates.

The journal is append-only, a line for each scored shard, so that a killed search scores again only
what was in flight. Where a model has chosen the candidates of a generation, they are written down
before they are scored: another machine might choose others, as its last bits differ.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from evo.algorithms.base import Proposal
from evo.genome.subnet import Dimensions, Subnet
from evo.search.history.parts import DIGITS
from evo.search.shard_score import ShardScore
from evo.storage.files import output_errors, write_whole
from evo.storage.records import Count, built, checked, parse, reading


@dataclass(frozen=True)
class Asked:
    """The candidates of a generation as a strategy has proposed them.

    Attributes:
        rng: state of the strategy's random numbers afterwards, JSON.
        proposals: the candidates.
    """

    rng: dict[str, Any]
    proposals: list[Proposal]


class AskedFile(TypedDict):
    """`asked-N.json`: genomes in base 64, how they were made, and the ids of what of."""

    generation: Count
    rng: dict[str, Any]
    proposals: list[Any]


class Journal:
    """The files of a generation that has not ended, or whose part is being written.

    Args:
        directory: of the search.
        generation: its number.
    """

    def __init__(self, directory: Path, generation: int) -> None:
        self.generation = generation
        self.scores_file = directory / f"journal-{generation:0{DIGITS}}.jsonl"
        self.asked_file = directory / f"asked-{generation:0{DIGITS}}.json"

    def scores(self) -> dict[tuple[str, int], ShardScore]:
        """The scores so far, by candidate and shard. A torn last line is left out.

        Raises:
            UserError: another line is damaged.
        """
        if not self.scores_file.is_file():
            return {}
        lines = self.scores_file.read_bytes().split(b"\n")
        scores = {}
        for number, line in enumerate(lines[:-1], 1):
            with reading(self.scores_file, f"line {number}; remove the line to score that anew"):
                unit, score = _from_json(line)
                scores[unit] = score
        return scores

    def append(self, scores: Mapping[tuple[str, int], ShardScore]) -> None:
        """Write scores down, at once.

        Raises:
            UserError: the disk is full, or the like.
        """
        lines = "".join(_to_json(*unit, score) for unit, score in scores.items())
        with output_errors(self.scores_file), self.scores_file.open("ab") as file:
            file.write(lines.encode())

    def mend(self) -> None:
        """Cut off a line that a kill left torn, so that the next one starts afresh."""
        if self.scores_file.is_file():
            content = self.scores_file.read_bytes()
            if content and not content.endswith(b"\n"):
                with output_errors(self.scores_file), self.scores_file.open("r+b") as file:
                    file.truncate(content.rfind(b"\n") + 1)

    def keep_asked(self, asked: Asked) -> None:
        """Write the candidates down before they are scored.

        Raises:
            UserError: the disk is full, or the like.
        """
        rows = [
            [base64.b64encode(one.subnet.pack()).decode(), one.operator, one.parents]
            for one in asked.proposals
        ]
        write_whole(
            self.asked_file,
            json.dumps({"generation": self.generation, "rng": asked.rng, "proposals": rows}),
        )

    def asked(self, dimensions: Dimensions) -> Asked | None:
        """The candidates, where they were written down.

        Args:
            dimensions: of the teacher.

        Raises:
            UserError: the file is damaged.
        """
        if not self.asked_file.is_file():
            return None
        with reading(self.asked_file, "remove it, and the generation is proposed anew"):
            content = parse(self.asked_file.read_bytes(), AskedFile)
            if content["generation"] != self.generation:
                raise ValueError(f"it is of generation {content['generation']}")
            proposals = [
                Proposal(Subnet.unpack(base64.b64decode(genome), dimensions), operator, (*parents,))
                for genome, operator, parents in content["proposals"]
            ]
            if not proposals:
                raise ValueError("no candidates")
            return Asked(content["rng"], proposals)

    def remove(self) -> None:
        """Delete the files, once what they say is in the history.

        Raises:
            UserError: they cannot be deleted.
        """
        with output_errors(self.scores_file):
            self.scores_file.unlink(missing_ok=True)
            self.asked_file.unlink(missing_ok=True)


def _to_json(candidate: str, shard: int, score: ShardScore) -> str:
    return json.dumps({"candidate": candidate, "shard": shard, **vars(score)}) + "\n"


def _from_json(line: bytes) -> tuple[tuple[str, int], ShardScore]:
    record = parse(line, dict[str, Any])
    unit = checked((record.pop("candidate"), record.pop("shard")), tuple[str, int])
    return unit, built(record, ShardScore)
