"""A text that is read while it is trained on: its blocks in order, in windows.

This serves text that is not worth preparing, or fits on no disk. Blocks are shuffled within a
window of some thousands, and training asks for a window by its number. One actor reads
for all workers, the next window while they train on one. Where each window begins in the text is
written down: after a crash, reading goes on there, at the cost of reading some 64 MiB of text, or
one file that is compressed or of the hub, up to that position again, without tokenising it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import ObjectLostError

from evo.data.chunks import chunks_of
from evo.data.reading import PLAIN, Reading
from evo.data.reading.beginning_of_text import of_blocks, of_documents
from evo.data.reading.npy_files import npy_tokens
from evo.data.sources import SourceRange
from evo.data.token_blocks import Tokens, batches_of, check_ids
from evo.errors import UserError
from evo.model.tokenizer import Tokenizer, load_tokenizer
from evo.storage.files import output_errors, write_whole
from evo.storage.strict_json import loads
from training.data.prefetch import AHEAD

APART = AHEAD + 1
"""Two workers read steps that are at most this far apart: the slower one reads the step for which
the faster one waits, and that one has read ahead, and holds one more step."""

RESTARTS = 4
"""A reader that dies is restarted this often; then the workers fail, and are started again with
another reader."""


@dataclass(frozen=True)
class TextPosition:
    """The place in a text where a block begins.

    Attributes:
        part: number of the part.
        document: number of the document in the part, empty documents counted; in a `.npy`, number
            of a stretch of token ids.
        token: number of the token in the document.
    """

    part: int = 0
    document: int = 0
    token: int = 0


class BlockStream:
    """The blocks of a text in their order; after its end, from its beginning again. They begin with
    a token of their own where the reading says so.

    Only text needs the tokenizer, not a `.npy`. The position is that of the first block, the length
    that of all blocks, in tokens.
    """

    def __init__(
        self,
        parts: Sequence[SourceRange],
        tokenizer: Tokenizer | None,
        length: int,
        position: TextPosition = TextPosition(),
        reading: Reading = PLAIN,
    ) -> None:
        self._first = of_blocks(reading, tokenizer)
        self._bos = of_documents(reading, tokenizer)
        self._length = length if self._first is None else length - 1
        self._parts, self._tokenizer = parts, tokenizer
        self._documents = self._from(position)
        self._part, self._document, self._tokens = next(self._documents)
        self._token = position.token

    @property
    def position(self) -> TextPosition:
        """The position of the next block."""
        return TextPosition(self._part, self._document, self._token)

    def read(self, count: int) -> Tokens:
        """The next blocks, shape [count, T].

        Raises:
            UserError: the text cannot be read.
        """
        stream = np.empty(count * self._length, np.int32)
        filled = 0
        while filled < len(stream):
            if self._token == len(self._tokens):
                self._part, self._document, self._tokens = next(self._documents)
                self._token = 0
            some = self._tokens[self._token : self._token + len(stream) - filled]
            stream[filled : filled + len(some)] = some
            filled, self._token = filled + len(some), self._token + len(some)
        blocks = stream.reshape(count, self._length)
        return blocks if self._first is None else np.insert(blocks, 0, self._first, axis=1)

    def _from(self, position: TextPosition) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Numbers of part and document, and the document's tokens."""
        number, first = position.part, position.document
        without_text = 0
        while without_text <= len(self._parts):
            without_text += 1
            for document, tokens in self._part_from(self._parts[number], first):
                without_text = 0
                yield number, document, tokens
            number, first = (number + 1) % len(self._parts), 0
        raise UserError(f"{self._parts[0].name} is empty: there is no text in it")

    def _part_from(self, part: SourceRange, first: int) -> Iterator[tuple[int, NDArray[Any]]]:
        if part.kind == ".npy":
            yield from islice(enumerate(npy_tokens(part)), first, None)
            return
        assert self._tokenizer is not None
        begin = np.array([] if self._bos is None else [self._bos], np.int32)
        end = np.array([self._tokenizer.end_of_text], np.int32)
        numbered = islice(enumerate(part.documents()), first, None)
        for batch in batches_of((pair for pair in numbered if pair[1]), lambda pair: len(pair[1])):
            encoded = self._tokenizer.encode([text for _, text in batch])
            for (document, _), tokens in zip(batch, encoded, strict=True):
                yield document, np.concatenate([begin, tokens, end])


@dataclass(frozen=True)
class StreamedText:
    """A text that is read as a stream.

    Attributes:
        source: name by which the user asked for it.
        parts: the parts of the text.
        model: checkpoint directory whose tokenizer is used.
        vocabulary: token ids must be below it.
        length: tokens of a block.
        window: blocks of a window.
        reading: where a beginning-of-text token stands.
    """

    source: str
    parts: tuple[SourceRange, ...]
    model: Path
    vocabulary: int
    length: int
    window: int
    reading: Reading = PLAIN


def parts_of(source: str, reading: Reading = PLAIN) -> tuple[SourceRange, ...]:
    """The parts of a source, small enough to go on quickly in the middle of it.

    Raises:
        UserError: the source cannot be read.
    """
    chunks = chunks_of([source], reading=reading)
    parts = tuple(part for chunk in chunks for part in chunk.parts)
    if not parts:
        raise UserError(f"{source} is empty: there is no text in it")
    return parts


class WindowReader:
    """Reads the windows of a text; runs in an actor of its own.

    Args:
        text: the text to read.
        positions: file with the positions where windows begin, a line for each.
        kept: number of windows that are held, because workers ask for the same windows, but not at
            the same moment.
    """

    def __init__(self, text: StreamedText, positions: Path, kept: int) -> None:
        self._text, self._file, self._most = text, positions, kept
        self._tokenizer = load_tokenizer(text.model)
        self._positions = {0: TextPosition(), **_read_positions(positions)}
        # This leaves out a line that was cut off.
        write_whole(positions, "".join(map(_line, *zip(*self._positions.items(), strict=True))))
        self._kept: dict[int, Any] = {}
        self._next = 0
        self._stream: BlockStream | None = None

    def window(self, number: int) -> list[Any]:
        """A reference to the blocks of a window, shape [W, T], alone in a list.

        It is one object for all workers; as the call's own result, each would get a copy.

        Raises:
            UserError: the text cannot be read, or has token ids beyond the vocabulary.
        """
        while number not in self._kept:
            if self._stream is None or self._next > number:
                self._seek(max(known for known in self._positions if known <= number))
            self._read_next()
        return [self._kept[number]]

    def _seek(self, number: int) -> None:
        text = self._text
        self._stream = BlockStream(
            text.parts, self._tokenizer, text.length, self._positions[number], text.reading
        )
        self._next = number

    def _read_next(self) -> None:
        assert self._stream is not None
        blocks = self._stream.read(self._text.window)
        check_ids(self._text.source, blocks, self._text.vocabulary)
        self._kept[self._next] = ray.put(blocks)
        if len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]  # the one that was read first
        self._next += 1
        if self._next not in self._positions:
            self._positions[self._next] = self._stream.position
            with output_errors(self._file), self._file.open("a", encoding="utf-8") as file:
                file.write(_line(self._next, self._stream.position))


def _read_positions(path: Path) -> dict[int, TextPosition]:
    """The positions where windows begin, by the windows' numbers; a line cut off ends them."""
    positions: dict[int, TextPosition] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for line in lines:
        try:
            number, *position = loads(line)
            positions[number] = TextPosition(*position)
        except (ValueError, TypeError):
            break
    return positions


def _line(number: int, position: TextPosition) -> str:
    return json.dumps([number, *astuple(position)]) + "\n"


def windows_to_keep(batch: int, window: int) -> int:
    """The number of windows to hold, so that no worker asks for one that was let go.

    Both are in blocks: the batch of a step, and the window.
    """
    # Steps do not end where windows do, and the window after the last is asked for already.
    return -(-(APART + 1) * batch // window) + 2


class StreamedBlocks:
    """The blocks of a text that another process reads; indexed by an array of numbers.

    The next window is asked for ahead. Numbers are expected to rise from window to window.

    Args:
        text: the text to read.
        positions: file in which the reader keeps the positions of windows.
        batch: blocks of a step, of which the text has a part or all.
    """

    def __init__(self, text: StreamedText, positions: Path, batch: int) -> None:
        self.shape = (text.window, text.length)
        # It waits for text or for workers, so it must not wait for a core that workers hold, nor
        # for one in a sweep's trial, which has none.
        remote = ray.remote(
            num_cpus=0,
            max_restarts=RESTARTS,
            max_task_retries=RESTARTS,
            scheduling_strategy="DEFAULT",
        )(WindowReader)
        self._reader: Any = remote.remote(text, positions, windows_to_keep(batch, text.window))
        self._asked: dict[int, Any] = {}

    def __getitem__(self, numbers: NDArray[np.int64]) -> Tokens:
        window = self.shape[0]
        blocks = np.empty((len(numbers), self.shape[1]), np.int32)
        needed = np.unique(numbers // window)
        for number in map(int, needed):
            inside = numbers // window == number
            blocks[inside] = self._window(number)[numbers[inside] % window]
        if len(needed):
            self._asked = {n: ref for n, ref in self._asked.items() if n >= needed[0]}
            self._ask(int(needed[-1]) + 1)
        return blocks

    def _window(self, number: int) -> Tokens:
        while True:
            try:
                return ray.get(ray.get(self._ask(number))[0])
            except ObjectLostError:  # the reader has died since, and runs again
                del self._asked[number]

    def _ask(self, number: int) -> Any:
        if number not in self._asked:
            self._asked[number] = self._reader.window.remote(number)
        return self._asked[number]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_asked": {}}
