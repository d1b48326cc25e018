"""Run the tests in two processes: those that use Ray in one, all others in the other.

    python -m tests.run [--slow] [ARGUMENTS OF PYTEST]

Tests with the mark `slow` run with --slow, and then no others.

Ray's tests share one Ray, and must not compete with others of their kind for its CPUs; meanwhile
the others use the core that a waiting driver leaves. The output of the others follows when both
have ended. The last line adds up both results.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter

ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
}
"""Hundreds of processes import our modules: they need not compile them, each one anew."""

NO_TESTS = 5
"""pytest's exit status where no test was selected."""


def main() -> int:
    """Run both, and return pytest's exit status: of the first process that failed."""
    began = time.monotonic()
    arguments = sys.argv[1:]
    speed = "slow" if "--slow" in arguments else "not slow"
    arguments = [argument for argument in arguments if argument != "--slow"]
    pytest = [sys.executable, "-m", "pytest", "-q", *arguments, "-m"]
    with tempfile.TemporaryFile("w+") as output:
        others = subprocess.Popen(
            [*pytest, f"not ray and {speed}"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
        )
        lines = []
        try:
            with subprocess.Popen(
                [*pytest, f"ray and {speed}"],
                stdout=subprocess.PIPE,
                text=True,
                errors="replace",
                env=ENVIRONMENT,
            ) as with_ray:
                assert with_ray.stdout is not None
                for line in with_ray.stdout:
                    lines.append(line)
                    print(line, end="", flush=True)
            others.wait()
        finally:
            others.kill()
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
    statuses = [status for status in (with_ray.returncode, others.returncode) if status != NO_TESTS]
    return next((status for status in statuses if status), 0) if statuses else NO_TESTS


def _summary(output: str) -> str:
    """The counts in pytest's last line, after which Ray may have spoken."""
    found = re.findall(r"^(?:=+ )?((?:\d+ [a-z]+(?:, )?)+) in [\d.]+s", output, re.MULTILINE)
    return found[-1] if found else ""


if __name__ == "__main__":
    sys.exit(main())
