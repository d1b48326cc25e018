"""What a text is known by, whatever its path is, and without a tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from evo.data import hub
from evo.data.chunks import file_bytes
from evo.data.prepared_corpus import Manifest, is_prepared
from evo.data.reading import Reading
from evo.data.sources import SourceRange, parts

READ_BYTES = 2**30
"""Files that are larger together are known by their names and sizes."""


def text_identity(sources: Sequence[str], reading: Reading) -> str:
    """A hash of a text, 16 hexadecimal digits: the same for a moved one, another for another one.

    Args:
        sources: see `evo.data.sources`.
        reading: how documents are read.

    Raises:
        UserError: a source that cannot be read.
    """
    digest = hashlib.blake2b(repr(reading.changes).encode(), digest_size=8)
    for source in sources:
        digest.update(repr(_known_by(source, reading)).encode())
    return digest.hexdigest()


def _known_by(source: str, reading: Reading) -> list[object]:
    if is_prepared(source):
        return [shard.checksum for shard in Manifest.load(Path(source)).shards]
    found = parts(source, reading)
    is_large = sum(map(file_bytes, found)) > READ_BYTES
    return [_part(part, is_large) for part in found]


def _part(part: SourceRange, is_large: bool) -> object:
    if part.kind == "hf":
        return hub.identity(part.name, hub.version(part.name))
    if is_large and part.path is not None:
        return part.path.name, file_bytes(part)
    return part.cache_key()
