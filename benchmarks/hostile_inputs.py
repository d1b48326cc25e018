"""Damaged, odd and hostile inputs that the tests try, of which none may end in a traceback.

    python -m benchmarks.hostile_inputs

runs those tests, the slow ones included (a quarter of an hour), and counts what each of them tried.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.machine import measured_on, sentence
from tests.support.tried import VARIABLE

TESTS = [
    "tests/evo/test_hostile_flags.py",
    "tests/evo/data/reading/test_hostile_text.py",
    "tests/evo/huggingface/test_odd_settings.py",
    "tests/evo/commands/test_damaged_runs.py",
]

HERE = Path(__file__).with_suffix("")


def main() -> int:
    """Run the tests, and write hostile_inputs.json and hostile_inputs.md where they pass."""
    with tempfile.TemporaryDirectory() as directory:
        counts = Path(directory) / "counts.jsonl"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "not ray", *TESTS],
            env=os.environ | {VARIABLE: str(counts)},
            check=False,
        )
        if done.returncode:
            return done.returncode
        tried = Counter[str]()
        for line in counts.read_text().splitlines():
            kind, inputs = json.loads(line)
            tried[kind] += inputs
    machine = measured_on(("pytest", "hypothesis"))
    found = {"machine": machine, "tried": dict(sorted(tried.items()))}
    HERE.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    rows = [f"| {kind} | {inputs:,} |" for kind, inputs in sorted(tried.items())]
    text = [
        "# Hostile inputs",
        "",
        f"{tried.total():,} damaged, odd or hostile inputs: each was read right, or refused in one "
        "line with exit code 2; none ended in a traceback or left something half-written.",
        "",
        "| property | inputs |",
        "| --- | --- |",
        *rows,
        "",
        sentence(machine),
    ]
    HERE.with_suffix(".md").write_text("\n".join(text) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
