"""Small corpora of mixed files, and what their token stream must be."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evo.model.tokenizer import Tokenizer

WORDS = (
    *("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while"),
    *("äöü", "zebras", "vexingly", "judge\nmy", "vow"),
)


def random_documents(count: int, seed: int, most: int = 60) -> list[str]:
    """Texts of up to so many words, some of them empty."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(most))) for _ in range(count)]


def write_jsonl(path: Path, texts: Sequence[str]) -> Path:
    lines = [json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)]
    path.write_text("".join(lines))
    return path


def write_mixed(directory: Path, *, documents: int = 40) -> list[str]:
    """A folder of every kind of file; its documents, in the order of the files' names."""
    directory.mkdir(parents=True)
    kinds = [random_documents(documents, seed) for seed in range(4)]
    write_jsonl(directory / "a.jsonl", kinds[0])
    table = pa.table({"text": kinds[1], "id": list(range(documents))})
    pq.write_table(table, directory / "b.parquet", row_group_size=7)
    for number, text in enumerate(kinds[2][:5]):
        (directory / f"c{number}.txt").write_text(text, encoding="utf-8")
    (directory / "deep").mkdir()
    with gzip.open(directory / "deep" / "d.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in kinds[3])
    (directory / "notes.md").write_text("no text of the corpus")
    return [*kinds[0], *kinds[1], *kinds[2][:5], *kinds[3]]


def stream(texts: Sequence[str], tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Each document's tokens and the end of text, without anything of ours."""
    tokens = [
        token
        for text in texts
        if text
        for token in [*tokenizer._tokenizer.encode(text).ids, tokenizer.end_of_text]
    ]
    return np.array(tokens, np.int32)
