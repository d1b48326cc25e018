"""`evo prepare` on two workers against tokenising the same corpus in one plain process.

    python -m benchmarks.training.prepare

A corpus of 200 MB or more of .jsonl, .parquet and .txt, made of stretches of Python's standard
library, and the embedded teacher's tokenizer. Both are whole commands, from start to end, and each
is run three times, in turns. While `evo prepare` runs, the memory of its workers is looked at twice
a second. Then the token streams are compared. Writes prepare.json and prepare.md beside this file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import measured_on, sentence
from evo.data.prepared_corpus import Manifest
from evo.data.sources import documents, parts
from evo.data.token_blocks import part_tokens
from evo.data.token_shards import map_tokens
from evo.embedded import teacher_path
from evo.model.tokenizer import Tokenizer

HERE = Path(__file__).parent
WORKERS = 2
FILES = 4
"""Of each kind but .txt."""


def make_corpus(directory: Path, size: int) -> int:
    """Write a folder of mixed files; how many bytes they are.

    Args:
        directory: empty.
        size: of the text, bytes; on disk parquet's third is much smaller.
    """
    rng = np.random.default_rng(0)
    source = "\n".join(documents("stdlib:train"))

    def texts(characters: int) -> list[str]:
        made: list[str] = []
        while characters > 0:
            length = int(rng.integers(200, 20_000))
            start = int(rng.integers(len(source) - length))
            made.append(source[start : start + length])
            characters -= length
        return made

    each = int(size * 1.02) // (3 * FILES)
    for number in range(FILES):
        with (directory / f"{number}.jsonl").open("w") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts(each))
        table = pa.table({"text": texts(each)})
        pq.write_table(table, directory / f"{number}.parquet", row_group_size=500)
        folder = directory / f"text-{number}"
        folder.mkdir()
        for name, text in enumerate(texts(each)):
            (folder / f"{name:05d}.txt").write_text(text)
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def plain(corpus: Path, out: Path) -> None:
    """One process on one core: each document's tokens, the end of text, to a file."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer(teacher_path())
    with out.open("wb") as file:
        for part in parts(str(corpus)):
            for tokens in part_tokens(part, tokenizer):
                file.write(tokens.astype("<u2").tobytes())


class WorkersMemory:
    """What belongs to each worker of a command alone (USS), looked at twice a second.

    Attributes:
        seen: seconds since the start, and MiB of the largest worker then.
    """

    def __init__(self, process: int) -> None:
        self.seen: list[tuple[float, float]] = []
        self._root = psutil.Process(process)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(0.5):
            sizes = []
            try:
                children = self._root.children(recursive=True)
            except psutil.NoSuchProcess:
                return
            for child in children:
                try:
                    if any(part.startswith("ray::Map") for part in child.cmdline()):
                        sizes.append(child.memory_full_info().uss / 2**20)
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            if sizes:
                self.seen.append((time.monotonic() - began, max(sizes)))


def run(command: list[str], *, watch: bool = False) -> tuple[float, list[tuple[float, float]]]:
    """Seconds of a whole command, and its workers' memory.

    Raises:
        SystemExit: it failed.
    """
    variables = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, env=variables, cwd=HERE.parents[1]
    )
    memory = WorkersMemory(process.pid) if watch else None
    code = process.wait()
    seconds = time.perf_counter() - began
    if memory is not None:
        memory.close()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return seconds, memory.seen if memory else []


def halves(seen: list[tuple[float, float]]) -> tuple[float, float]:
    """The largest worker's most memory in the first and in the second half of the time."""
    middle = (seen[0][0] + seen[-1][0]) / 2
    return (
        max(size for moment, size in seen if moment <= middle),
        max(size for moment, size in seen if moment > middle),
    )


def stream_hash(arrays: Any) -> str:
    """Of token ids, one array after the other."""
    digest = hashlib.blake2b(digest_size=16)
    for tokens in arrays:
        digest.update(np.ascontiguousarray(tokens, "<u2"))
    return digest.hexdigest()


def measure(size: int, repeats: int) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "corpus").mkdir()
        made = make_corpus(root / "corpus", size)
        machine = measured_on(("ray", "tokenizers", "pyarrow"))
        seconds: dict[str, list[float]] = {"plain": [], "prepare": []}
        memory: list[tuple[float, float]] = []
        for number in range(repeats):
            stream = root / f"plain-{number}"
            arguments = ["--plain", str(root / "corpus"), str(stream)]
            seconds["plain"].append(run(["-m", "benchmarks.training.prepare", *arguments])[0])
            out = root / f"prepared-{number}"
            flags = {"--text": root / "corpus", "--tokenizer": teacher_path(), "--out": out}
            command = ["-m", "evo", "prepare", "--workers", str(WORKERS)]
            command += [str(part) for pair in flags.items() for part in pair]
            took, memory = run(command, watch=True)
            seconds["prepare"].append(took)
        manifest = Manifest.load(out)
        ours = stream_hash(map_tokens(out / shard.file) for shard in manifest.shards)
        theirs = stream_hash([np.memmap(stream, "<u2", mode="r")])
    first, second = halves(memory)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "machine": machine,
        "bytes": made,
        "tokens": manifest.tokens,
        "documents": manifest.documents,
        "shards": len(manifest.shards),
        "streams_are_equal": ours == theirs,
        "seconds": seconds,
        "tokens_per_second": {name: manifest.tokens / time for name, time in medians.items()},
        "ratio": medians["plain"] / medians["prepare"],
        "worker_mib": {"first_half": first, "second_half": second},
        "worker_mib_over_time": memory,
    }


def page(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rates, memory = found["tokens_per_second"], found["worker_mib"]
    rows = [
        ("one plain process, one core", rates["plain"], found["seconds"]["plain"], 1.0),
        (f"`evo prepare`, {WORKERS} workers", rates["prepare"], found["seconds"]["prepare"],
         found["ratio"]),
    ]  # fmt: skip
    equal = "equal" if found["streams_are_equal"] else "NOT equal"
    return "\n".join(
        [
            "# Preparing a corpus",
            "",
            f"{found['bytes'] / 1e6:.0f} MB of .jsonl, .parquet and .txt, "
            f"{found['documents']:,} documents, {found['tokens']:,} tokens. Whole commands, the "
            "start of Ray included; medians of interleaved runs, all runs in brackets.",
            "",
            "| | tokens/s | seconds | |",
            "| --- | ---: | ---: | ---: |",
            *(
                f"| {name} | {rate:,.0f} | {statistics.median(times):.1f} "
                f"({', '.join(f'{time:.1f}' for time in times)}) | {ratio:.2f}x |"
                for name, rate, times, ratio in rows
            ),
            "",
            f"The token streams are {equal}. The largest worker's own memory (USS) was at most "
            f"{memory['first_half']:.0f} MiB in the first half of the time and "
            f"{memory['second_half']:.0f} MiB in the second.",
            "",
            sentence(found["machine"]),
            "",
        ]
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=275_000_000, help="bytes of the text")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plain", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        plain(*arguments.plain)
        return
    found = measure(arguments.size, arguments.repeats)
    (HERE / "prepare.json").write_text(json.dumps(found, indent=1) + "\n")
    (HERE / "prepare.md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
