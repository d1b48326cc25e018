"""The settings of `evo prepare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evo.data.reading import Reading
from evo.errors import UserError


@dataclass(frozen=True)
class PrepareConfig(Reading):
    """Tokenise a corpus into a directory that every --text takes.

    Its token stream is that of the sources one after the other: each document, then the end-of-text
    token. Run again, the same command makes only what is missing or damaged.

    Attributes:
        text: sources of the corpus: files, globs or directories of .txt, .jsonl, .jsonl.zst,
            .parquet and .npy, or hf:REPO[@COMMIT][:CONFIG]:SPLIT. A mixture with weights is
            several corpora, each prepared by itself.
        tokenizer: checkpoint directory whose tokenizer.json is used.
        out: directory to make, which all nodes must be able to reach.
        sequence_length: tokens of a block; by default the corpus is a stream that each reader cuts
            to blocks of the length that it asks for.
        workers: how many chunks are tokenised at once; by default one per core of the cluster. May
            differ at every start.
    """

    text: list[str] | str
    tokenizer: Path
    out: Path
    sequence_length: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sequence_length is not None and self.sequence_length < 2:
            raise UserError(
                f"--sequence-length {self.sequence_length} leaves nothing to predict: "
                "give at least 2"
            )
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers {self.workers}: it must be at least 1")

    @property
    def sources(self) -> list[str]:
        """The sources as a list."""
        return [self.text] if isinstance(self.text, str) else list(self.text)
