"""Run the tests in two processes, each with half of the work.

    python -m tests.run [--slow] [ARGUMENTS OF PYTEST]

Tests that use Ray run in one and all others in the other: Ray's tests wait for their workers, and
meanwhile the others use the core that a waiting driver leaves. Those with the mark `slow`, which
run with --slow and then alone, nearly all use Ray: there each process has a Ray of its own, one for
the tests of training and one for all else. The output of the second follows when both have ended.
The last line adds up both results.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections import Counter

HALVES = {
    False: ("ray and not slow", "not ray and not slow"),
    True: ("slow and not training", "slow and training"),
}
"""What the two processes run without and with --slow, as pytest's `-m` says it."""

NO_TESTS = 5
"""pytest's exit status where no test was selected."""


def main() -> int:
    """Run both, and return pytest's exit status: of the first process that failed."""
    began = time.monotonic()
    arguments = sys.argv[1:]
    first_half, second_half = HALVES["--slow" in arguments]
    arguments = [argument for argument in arguments if argument != "--slow"]
    pytest = [sys.executable, "-m", "pytest", "-q", *arguments, "-m"]
    with tempfile.TemporaryFile("w+") as output:
        second = subprocess.Popen([*pytest, second_half], stdout=output, stderr=subprocess.STDOUT)
        lines = []
        try:
            with subprocess.Popen(
                [*pytest, first_half], stdout=subprocess.PIPE, text=True, errors="replace"
            ) as first:
                assert first.stdout is not None
                for line in first.stdout:
                    lines.append(line)
                    print(line, end="", flush=True)
            second.wait()
        finally:
            second.kill()
        output.seek(0)
        text = output.read()
    print(text, end="")
    counts = Counter[str]()
    for said in ("".join(lines), text):
        for number, kind in re.findall(r"(\d+) ([a-z]+)", _summary(said)):
            counts[kind] += int(number)
    counts.pop("deselected", None)
    total = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    print(f"{total or 'no tests ran'} in {time.monotonic() - began:.2f}s")
    statuses = [status for status in (first.returncode, second.returncode) if status != NO_TESTS]
    return next((status for status in statuses if status), 0) if statuses else NO_TESTS


def _summary(output: str) -> str:
    """The counts in pytest's last line, after which Ray may have spoken."""
    found = re.findall(r"^(?:=+ )?((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s", output, re.MULTILINE)
    return found[-1] if found else ""


if __name__ == "__main__":
    sys.exit(main())
