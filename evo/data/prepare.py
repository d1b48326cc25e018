"""`evo prepare`: tokenise a corpus on all of a cluster, once for all runs that read it.

Ray Data maps chunks of the corpus (`evo.data.chunks`) to shards: which chunk goes where, what runs
again after a worker's death and how many run at once is its business. It carries only the chunks'
names. Text is read, and token ids are written, by the tasks themselves, so that no more than a
chunk is in a worker's memory, nothing travels between nodes, and the order is that of the chunks
whatever order they are finished in.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from evo.data.chunks import Chunk, chunks_of
from evo.data.config import PrepareConfig
from evo.data.hub import pin_sources
from evo.data.prepare_progress import PrepareProgress
from evo.data.prepared_corpus import MANIFEST, RECORDS, Manifest, is_prepared
from evo.data.reading.beginning_of_text import beginning_of_text
from evo.data.sources import SourceRange, parts
from evo.data.text_weights import check_weights
from evo.data.tokenise_chunk import Record, read_record, record_path, token_type, tokenise_chunk
from evo.errors import UserError, first_line
from evo.model.tokenizer import Tokenizer, load_tokenizer
from evo.storage.checksums import damaged
from evo.storage.files import exclusive, output_errors
from evo.storage.run_directory import claim_run

TRIES = 5
"""Tries of a chunk whose worker dies. Ray Data would try for ever, and Ray does not count workers
that are killed for their memory."""

MOST_NAMES = 5
"""At most this number of unfinished chunks is named in a message."""


def prepare(config: PrepareConfig) -> Manifest:
    """Tokenise a corpus, or go on with one that was cut off; a finished one is only checked.

    Raises:
        UserError: a source that cannot be read, no tokenizer, or a directory of something else.
    """
    if prepared := next(filter(is_prepared, config.sources), None):
        raise UserError(f"{prepared} is prepared already: give it to --text as it is")
    tokenizer = _tokenizer(config.tokenizer)
    beginning_of_text(config.reading, tokenizer)
    out = config.out.absolute()
    _check_once(config.sources)
    sources = pin_sources(config.sources, out, "text")
    chunks = chunks_of(sources, reading=config.reading)
    files = _files(chunks)
    settings = {
        "text": sources,
        "files_hash": _hash(chunks),
        "tokenizer": str(config.tokenizer),
        "tokenizer_hash": tokenizer.hash,
        "end_of_text": tokenizer.end_of_text,
        "sequence_length": config.sequence_length,
        **config.reading.changes,
    }
    claim_run(out, settings, free=("tokenizer", "text"), first=_connect)
    with exclusive(out):
        _remove_temporary(out)
        records = _finished(out, chunks)
        missing = [number for number in range(len(chunks)) if number not in records]
        if missing:
            (out / MANIFEST).unlink(missing_ok=True)
            (out / RECORDS).mkdir(exist_ok=True)
            with PrepareProgress(str(config.out), chunks, records) as progress:
                for number in _tokenise(missing, chunks, config):
                    record = read_record(out, number)
                    if record is None:
                        raise UserError(
                            f"the workers' shards are not in {out}: --out must be on a file system "
                            "that all nodes share"
                        )
                    records[number] = record
                    progress.advance(number, record)
            _remove_temporary(out)
        ordered = [records[number] for number in range(len(chunks))]
        manifest = Manifest(
            text=sources,
            files=files,
            tokenizer_hash=tokenizer.hash,
            end_of_text=tokenizer.end_of_text,
            sequence_length=config.sequence_length,
            documents=sum(record.documents for record in ordered),
            tokens=sum(record.tokens for record in ordered),
            dtype=token_type(tokenizer).name,
            shards=[shard for record in ordered for shard in record.shards],
            bos=config.bos,
            skipped=sum(record.skipped for record in ordered),
        )
        if not manifest.tokens:
            raise UserError(f"{' '.join(config.sources)} is empty: there is no text in it")
        manifest.save(out)
    return manifest


def _check_once(sources: Sequence[str]) -> None:
    """Whether no text would be in the corpus twice.

    Raises:
        UserError: a source is given twice, or a file is in two of them.
    """
    check_weights(sources, None)
    found: dict[Path, str] = {}
    for source in sources:
        for part in parts(source):
            if part.path is not None:
                other = found.setdefault(part.path.resolve(), source)
                if other != source:
                    raise UserError(f"{part.name} is in --text {other} and in --text {source}")


def _connect() -> None:
    """Make sure that Ray runs, which takes seconds to import.

    Raises:
        UserError: there is no cluster.
    """
    from evo.ray_connection import connect

    connect()


def _tokenise(
    missing: Sequence[int], chunks: Sequence[Chunk], config: PrepareConfig
) -> Iterator[int]:
    """Tokenise chunks on the cluster; yields the number of each when it is finished.

    Raises:
        UserError: one of them cannot be read or written, or kills every worker that tries.
    """
    import ray.data
    from ray.exceptions import RayError

    _connect()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    for talker in ("progress", "execution.streaming_executor"):  # our own lines say as much
        logging.getLogger(f"ray.data._internal.{talker}").setLevel(logging.ERROR)
    rows = [
        {"number": number, "name": chunks[number].name, "chunk": pickle.dumps(chunks[number])}
        for number in missing
    ]
    made = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        partial(_task, tokenizer=config.tokenizer.absolute(), out=config.out.absolute()),
        compute=ray.data.TaskPoolStrategy(size=config.workers),
        num_cpus=1,
    )
    unfinished = set(missing)
    try:
        for row in made.iter_rows():
            if row["error"]:
                raise UserError(row["error"])
            unfinished.remove(row["number"])
            yield row["number"]
    except RayError as error:
        names = [chunks[number].name for number in sorted(unfinished)]
        others = f" and {len(names) - MOST_NAMES} others" if len(names) > MOST_NAMES else ""
        raise UserError(
            f"Ray gave up ({first_line(error)}): not finished are {', '.join(names[:MOST_NAMES])}"
            f"{others}; run the same `evo prepare` again"
        ) from error


def _task(row: dict[str, Any], *, tokenizer: Path, out: Path) -> dict[str, Any]:
    """One chunk. What the user must put right is handed over, and raised at the driver's."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a task has one core
    number, name, error = row["number"], row["name"], ""
    try:
        _count_try(number, name, out)
        tokenise_chunk(number, pickle.loads(row["chunk"]), _tokenizer(tokenizer), out)
    except UserError as refusal:
        error = str(refusal)
    except Exception as failure:  # ends the command too, but as Ray tells it, in a hundred lines
        error = f"{name}: {type(failure).__name__}: {first_line(failure)}"
    return {"number": number, "error": error}


def _count_try(number: int, name: str, out: Path) -> None:
    """Write down that a chunk is begun: only so does the next worker know that one died of it.

    Raises:
        UserError: enough have.
    """
    path = out / RECORDS / f".{number:05d}.tries.tmp"
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(b".")
            tries = file.tell()
    if tries > TRIES:
        raise UserError(
            f"{name}: {TRIES} workers died of it, one after the other; if they ran out of memory, "
            "give fewer --workers"
        )


@lru_cache(maxsize=1)
def _tokenizer(directory: Path) -> Tokenizer:
    """A checkpoint's, loaded once in each process.

    Raises:
        UserError: there is none.
    """
    tokenizer = load_tokenizer(directory)
    if tokenizer is None:
        raise UserError(f"{directory} has no tokenizer.json: --tokenizer is a checkpoint directory")
    return tokenizer


def _finished(out: Path, chunks: Sequence[Chunk]) -> dict[int, Record]:
    """The chunks that need not be tokenised again: those whose shards are whole, and whose files
    have not been changed since."""
    found = {number: read_record(out, number) for number in range(len(chunks))}
    records = {
        number: record
        for number, record in found.items()
        if record is not None and record.changed == chunks[number].changed
    }
    wrong = damaged(out, [shard for record in records.values() for shard in record.shards])
    for number, record in list(records.items()):
        if any(shard.file in wrong for shard in record.shards):
            record_path(out, number).unlink()
            del records[number]
    return records


def _remove_temporary(out: Path) -> None:
    """Remove what killed workers left half-written."""
    for directory in (out, out / RECORDS):
        for path in directory.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def _files(chunks: Sequence[Chunk]) -> list[dict[str, Any]]:
    """Name and size of each file, each once, in their order."""
    parts = {part.name: part for chunk in chunks for part in chunk.parts}
    return [{"name": name, **_identity(part)} for name, part in parts.items()]


def _identity(part: SourceRange) -> dict[str, Any]:
    if part.path is not None:
        return {"bytes": part.path.stat().st_size}
    return {"hash": part.version or part.cache_key()}


def _hash(chunks: Sequence[Chunk]) -> str:
    """A hash over names, sizes and ranges of all chunks.

    The records say when a file was changed, so that a copy of the same files will do to mend what
    was made of them.
    """
    digest = hashlib.blake2b(digest_size=8)
    for chunk in chunks:
        for part in chunk.parts:
            name = part.name if part.path is None else part.path.name
            digest.update(json.dumps([name, part.start, part.stop, _identity(part)]).encode())
    return digest.hexdigest()
