"""The training text: its sources, how much each counts, and how each is read.

A prepared corpus and a text that fits in memory are read by the numbers of their blocks, all
shuffled among each other. A data set of the hub, or files too large for the memory, are read as a
stream (`training.data.stream`), shuffled within windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evo.data.chunks import file_bytes
from evo.data.hub import identity
from evo.data.prepared_corpus import is_prepared, open_blocks
from evo.data.reading import PLAIN, Reading
from evo.data.reading.beginning_of_text import beginning_of_text
from evo.data.reading.npy_files import has_rows
from evo.data.sources import parts
from evo.data.text_weights import check_weights
from evo.data.token_blocks import SAMPLED_TOKENS, Tokens, load_text
from evo.data.token_shards import Blocks
from evo.errors import UserError
from evo.model.checkpoint import Checkpoint
from training.data.sampler import Extent
from training.data.stream import StreamedText, parts_of

STREAMED_BYTES = 2**30
"""Files of more than this are a stream; as token ids they would take about as much memory."""


@dataclass(frozen=True)
class Source:
    """A source of the training text.

    Attributes:
        name: name by which the user asked for it.
        blocks: the blocks: in memory, prepared, or a stream.
        hash: hash of the content; for a stream, of its files' names and sizes, or of their version
            on the hub.
    """

    name: str
    blocks: Tokens | Blocks | StreamedText
    hash: str

    @property
    def tokens(self) -> int | None:
        """The number of tokens; None for a stream, where it is not known."""
        return None if isinstance(self.blocks, StreamedText) else self.blocks.size

    @property
    def sequence_length(self) -> int:
        """Tokens of a sequence."""
        if isinstance(self.blocks, StreamedText):
            return self.blocks.length
        return self.blocks.shape[1]

    def known_blocks(self, purpose: str) -> Tokens | Blocks:
        """The blocks, by their numbers.

        The message names the purpose for which they are needed.

        Raises:
            UserError: the source is a stream.
        """
        if isinstance(self.blocks, StreamedText):
            raise UserError(
                f"{purpose} needs text whose blocks are known before it is read, and {self.name} "
                "is read as a stream: run `evo prepare` on it, and give its directory"
            )
        return self.blocks

    @property
    def extent(self) -> Extent:
        """The numbers by which the sampler orders the source's blocks."""
        if isinstance(self.blocks, StreamedText):
            return Extent(self.blocks.window, is_stream=True)
        return Extent(len(self.blocks))


@dataclass(frozen=True)
class TrainingText:
    """The sources and how much each counts.

    Attributes:
        sources: the sources, at least one.
        shares: each source's share of a run's blocks, adding up to 1.

    Raises:
        UserError: the sources' blocks are not of one length.
    """

    sources: tuple[Source, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        lengths = {source.name: source.sequence_length for source in self.sources}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} of {length}" for name, length in lengths.items())
            raise UserError(f"blocks of --text must be of one length, but there are {listed}")

    @property
    def sequence_length(self) -> int:
        """Tokens of a sequence."""
        return self.sources[0].sequence_length

    @property
    def hash(self) -> str:
        """Hash of all sources, in their order."""
        if len(self.sources) == 1:
            return self.sources[0].hash
        hashes = " ".join(source.hash for source in self.sources)
        return hashlib.blake2b(hashes.encode(), digest_size=8).hexdigest()

    @property
    def tokens(self) -> int | None:
        """The number of tokens in all sources; None where one is a stream."""
        counts = [source.tokens for source in self.sources]
        return None if None in counts else sum(count or 0 for count in counts)


def open_training_text(
    names: Sequence[str],
    weights: Sequence[float] | None,
    *,
    student: Checkpoint,
    vocabulary: int,
    sequence_length: int,
    tokens: int,
    shuffle_tokens: int,
    reading: Reading = PLAIN,
) -> TrainingText:
    """Open each source by its kind: read it into memory, check what is prepared, or stream it.

    Args:
        names: sources, see `evo.data.sources`.
        weights: weight of each source, which need not add up to 1; None: by tokens.
        student: checkpoint whose tokenizer is used.
        vocabulary: token ids must be below it.
        sequence_length: tokens of a sequence.
        tokens: number of tokens that the run needs.
        shuffle_tokens: tokens of a stream's window.
        reading: how documents are read.

    Raises:
        UserError: weights that fit no sources, or a source that cannot be used.
    """
    check_weights(names, weights)

    def open_source(name: str) -> Source:
        if is_prepared(name):
            blocks = open_blocks(
                name,
                tokenizer=student.tokenizer,
                vocabulary=vocabulary,
                sequence_length=sequence_length,
                reading=reading,
            )
            return Source(name, blocks, blocks.hash)
        is_large = name.startswith("hf:") or sum(map(file_bytes, parts(name))) > STREAMED_BYTES
        if is_large and not has_rows(name):
            window = max(1, shuffle_tokens // sequence_length)
            return _stream(name, student, vocabulary, sequence_length, window, reading)
        text = load_text(
            name,
            tokenizer=student.tokenizer,
            vocabulary=vocabulary,
            sequence_length=sequence_length,
            max_tokens=max(tokens, SAMPLED_TOKENS),  # a short run, too, draws from all of a text
            reading=reading,
        )
        return Source(name, text.blocks, text.hash)

    sources = tuple(map(open_source, names))
    if weights is None:
        weights = [source.tokens or 0 for source in sources]
        if len(sources) > 1 and 0 in weights:
            streams = [source.name for source in sources if source.tokens is None]
            raise UserError(
                f"how many tokens {' and '.join(streams)} has is not known: say with "
                "--text-weights how much each source counts"
            )
    total = sum(weights) or 1
    shares = (1.0,) if len(sources) == 1 else tuple(weight / total for weight in weights)
    return TrainingText(sources, shares)


def _stream(
    name: str, student: Checkpoint, vocabulary: int, length: int, window: int, reading: Reading
) -> Source:
    chunks = parts_of(name, reading)
    text_parts = [part for part in chunks if part.kind != ".npy"]
    if text_parts and student.tokenizer is None:
        raise UserError(
            f"{name} is text, but {student.path} has no tokenizer: give token ids as .npy, or "
            "import the checkpoint with its tokenizer"
        )
    digest = hashlib.blake2b(repr((length, window)).encode(), digest_size=8)
    if text_parts and student.tokenizer is not None:
        tokenizer = (student.tokenizer.hash, student.tokenizer.end_of_text)
        digest.update(repr(tokenizer).encode())
    bos = beginning_of_text(reading, student.tokenizer)
    if reading.changes:
        digest.update(repr((reading.changes, bos)).encode())
    for part in chunks:
        # The time of change is left out: a run must go on with a copy of the corpus.
        if part.path is None:
            (known_as, version), size = identity(part.name, part.version), None
        else:
            known_as, version, size = part.path.name, part.version, file_bytes(part)
        digest.update(repr((known_as, part.start, part.stop, version, size)).encode())
    model = Path(student.path).absolute()
    text = StreamedText(name, chunks, model, vocabulary, length, window, reading)
    return Source(name, text, digest.hexdigest())
