"""A teacher's logits on disk: its top k at every position of a text, for any number of students.

The directory holds `settings.yaml` (the teacher, the text, the form), `manifest.json` (the finished
shards, each with its checksum), and the shards. A shard of n sequences of T tokens is a safetensors
file with

- `block`: a hash of each sequence's token ids, uint64, shape [n]. Sequences are looked up by it,
  so nothing depends on the order in which a run reads, and no other text's logits can be taken for
  its own;
- `log_probability` of the k likeliest tokens at each target, over the real vocabulary and at
  temperature 1, falling, float32 or float16, shape [n, T-1, k]. (bfloat16 would round eight times
  as coarsely, and its range is of no use to them);
- `ids` of these tokens, uint16 where the vocabulary allows, else int32, shape [n, T-1, k];
- `log_rest`: logarithm of the probability of all other tokens, float32, shape [n, T-1].
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from evo.data.token_shards import Blocks
from evo.errors import UserError, first_line
from evo.model.tokenizer_ids import TokenizerIds
from evo.storage.checksums import Summed, check
from evo.storage.files import write_whole
from evo.storage.records import built, parse, reading
from evo.storage.run_directory import FILE as SETTINGS
from evo.storage.run_directory import read_settings
from training.losses.divergences import TopK

MANIFEST = "manifest.json"
OPEN_SHARDS = 2**15
"""This number of shards is kept open: half of what Linux lets a process map by default."""

CHECKED_BLOCKS = 2**12
"""This number of sequences is read at a time to check that all of them are stored."""

Tokens = NDArray[np.integer]


@dataclass(frozen=True)
class LogitsSettings:
    """The teacher, the text and the form of stored logits.

    Attributes:
        teacher: checkpoint directory of the teacher.
        teacher_hash: hash of the teacher's weights.
        tokenizer_hash: hash of the parts of the teacher's tokenizer; None where it has none.
        added_tokens: ids of its added tokens, by their texts.
        text: names of the sources.
        text_hash: hash of the blocks.
        blocks: sequences in all.
        sequence_length: tokens of a sequence.
        vocabulary: the distributions are over token ids below this.
        top_k: tokens that are kept at each position.
        dtype: dtype of stored log-probabilities.
        precision: dtype of the teacher's matrix products.
        blocks_per_shard: sequences of each shard but the last.
        flops: FLOPs of the teacher's forward passes over the text.
    """

    teacher: str
    teacher_hash: str
    tokenizer_hash: str | None
    added_tokens: dict[str, int]
    text: list[str]
    text_hash: str
    blocks: int
    sequence_length: int
    vocabulary: int
    top_k: int
    dtype: Literal["float32", "float16"]
    precision: Literal["float32", "bfloat16"]
    blocks_per_shard: int
    flops: int

    @property
    def token_ids(self) -> TokenizerIds | None:
        """What each token id means to the teacher; None where it has no tokenizer."""
        if self.tokenizer_hash is None:
            return None
        return TokenizerIds(self.tokenizer_hash, self.added_tokens)

    @property
    def shards(self) -> list[str]:
        """The names of all files."""
        count = -(-self.blocks // self.blocks_per_shard)
        return [f"shard-{number:06}.safetensors" for number in range(count)]

    @property
    def bytes_per_block(self) -> int:
        """Bytes of a sequence on disk."""
        return bytes_per_block(self.sequence_length, self.vocabulary, self.top_k, self.dtype)


def bytes_per_block(sequence_length: int, vocabulary: int, top_k: int, dtype: str) -> int:
    """Bytes of a sequence on disk."""
    value = np.dtype(dtype).itemsize + id_dtype(vocabulary).itemsize
    return 8 + (sequence_length - 1) * (top_k * value + 4)


def id_dtype(vocabulary: int) -> np.dtype[Any]:
    """The dtype of stored token ids."""
    return np.dtype(np.uint16 if vocabulary <= 2**16 else np.int32)


def block_hashes(blocks: Tokens) -> NDArray[np.uint64]:
    """Hashes of each row's token ids, whatever their integer dtype; shape [N]."""
    rows = np.ascontiguousarray(blocks, "<i4")
    digests = b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, "<u8")


def read_manifest(directory: Path) -> dict[str, Summed]:
    """The finished shards by their names.

    Raises:
        UserError: the manifest is damaged.
    """
    path = directory / MANIFEST
    if not path.is_file():
        return {}
    with reading(path, "remove it, and run `evo cache-logits` again"):
        listed = parse(path.read_bytes(), list[dict[str, Any]])
        shards = built(listed, list[Summed])
    return {shard.file: shard for shard in shards}


def write_manifest(directory: Path, shards: Iterable[Summed]) -> None:
    """Write the manifest of the finished shards, whole or not at all."""
    listed = [asdict(shard) for shard in shards]
    write_whole(directory / MANIFEST, json.dumps(listed, indent=1) + "\n")


@dataclass(frozen=True)
class TeacherLogits:
    """A finished directory of a teacher's logits.

    Attributes:
        directory: the directory.
        settings: settings of the logits.
        shards: the files, in the order of the text.
    """

    directory: Path
    settings: LogitsSettings
    shards: tuple[Summed, ...]

    @property
    def hash(self) -> str:
        """Hash of the settings and the shards' content, 16 hexadecimal digits.

        Names are left out: hashes of what they name are among the settings.
        """
        checksums = [shard.checksum for shard in self.shards]
        settings = {k: v for k, v in asdict(self.settings).items() if k not in ("teacher", "text")}
        content = json.dumps([settings, checksums])
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()

    def check_files(self) -> None:
        """Compare all shards with their checksums.

        Raises:
            UserError: a shard is missing or damaged.
        """
        check(self.directory, self.shards, "evo cache-logits")

    def check_text(self, blocks: Tokens | Blocks, source: str) -> None:
        """Make sure that all sequences of a text are stored.

        Args:
            blocks: token ids, shape [N, T], which are read in parts.
            source: name of the text, for the message.

        Raises:
            UserError: sequences are missing.
        """
        starts = range(0, len(blocks), CHECKED_BLOCKS)
        missing = sum(
            int((self._places(blocks[start : start + CHECKED_BLOCKS]) < 0).sum())
            for start in starts
        )
        if missing:
            raise UserError(
                f"{self.directory} was made for other text than {source}: {missing:,} of "
                f"{len(blocks):,} sequences are not in it (it is of "
                f"{' '.join(self.settings.text)}, {self.settings.blocks:,} sequences of "
                f"{self.settings.sequence_length} tokens)"
            )

    def top_k(self, blocks: Tokens) -> TopK:
        """The teacher's top k of some sequences.

        Args:
            blocks: token ids, shape [B, T].

        Returns:
            The top k at the B * (T-1) targets, log-probabilities as they are stored, ids in int32.

        Raises:
            UserError: a sequence is not stored.
        """
        places = self._places(blocks)
        if (places < 0).any():
            raise UserError(f"{self.directory} was made for other text than this run reads")
        size = self.settings.blocks_per_shard
        stored = [_rows(self._path(int(place) // size), int(place) % size) for place in places]
        values, ids, rest = map(np.concatenate, zip(*stored, strict=True))
        return TopK(
            torch.from_numpy(values),
            torch.from_numpy(ids.astype(np.int32)),
            torch.from_numpy(rest),
        )

    def _places(self, blocks: Tokens) -> NDArray[np.int64]:
        """The number of each sequence among all stored ones; -1: it is not stored."""
        order, hashes = self._index
        own = block_hashes(blocks)
        nearest = np.searchsorted(hashes, own).clip(max=len(hashes) - 1)
        return np.where(hashes[nearest] == own, order[nearest], -1)

    @cached_property
    def _index(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        hashes = np.concatenate(
            [_open(self._path(number)).get_tensor("block") for number in range(len(self.shards))]
        )
        order = np.argsort(hashes, kind="stable")
        return order, hashes[order]

    def _path(self, shard: int) -> Path:
        return self.directory / self.settings.shards[shard]


def open_teacher_logits(directory: Path) -> TeacherLogits:
    """Open a directory that `evo cache-logits` has made, without reading its shards.

    Raises:
        UserError: the directory has no logits, or is not finished.
    """
    if not (directory / MANIFEST).is_file():
        raise UserError(
            f"{directory} has no teacher's logits: it has no {MANIFEST} (`evo cache-logits` makes "
            "it)"
        )
    recorded = read_settings(directory)
    with reading(directory / SETTINGS, f"{directory} has no teacher's logits"):
        settings = built(recorded, LogitsSettings)
    shards, names = read_manifest(directory), settings.shards
    if set(shards) != set(names):
        raise UserError(
            f"{directory} is not finished: it has {len(shards)} of {len(names)} shards; run the "
            "same `evo cache-logits` again, it goes on"
        )
    return TeacherLogits(directory, settings, tuple(shards[name] for name in names))


@lru_cache(maxsize=OPEN_SHARDS)
def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error


def _rows(path: Path, row: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """A sequence's log-probabilities and ids, shape [T-1, k], and logarithms of the rest, [T-1]."""
    shard = _open(path)
    values, ids, rest = (
        shard.get_slice(name)[row] for name in ("log_probability", "ids", "log_rest")
    )
    return values, ids, rest
