"""docs/cluster.md from its first command to its last, as written, in a fresh home.

Between its blocks the study's driver is killed, and jobs are asked for what they must refuse.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pandas as pd
import psutil
import pytest

from evo.embedded import teacher_path
from tests.support.corpora import random_documents
from tests.support.heads import free_port, wait_until
from tests.support.pages import blocks, fresh_home, run, smaller

pytestmark = [pytest.mark.ray, pytest.mark.own_cluster, pytest.mark.slow]

SEARCH = {
    "search": "--population 4 --generations 12 --max-tokens 2000 --workers 1 --sequence-length 64"
    " --no-score-cache"
}

DASHBOARD = "http://grafana:3000/d/evo-search?var-run=study"


class Walk:
    """A user who goes through the page.

    Args:
        shared: what the page calls `/shared`.
        environment: of the user's shell.
    """

    def __init__(self, shared: Path, environment: dict[str, str]) -> None:
        self.shared = shared
        grafana = {"RAY_GRAFANA_HOST": "http://grafana:3000"}
        self.environment = environment | {"COLUMNS": "400", "RAY_AUTH_MODE": "token"} | grafana
        self.study = shared / "runs" / "study"

    def does(self, script: str) -> str:
        """Run commands, which must succeed; what they say."""
        text = smaller(script, SEARCH).replace("/shared", str(self.shared))
        # The Ray of the tests beside these may have the port that this one would have.
        agent = f"--dashboard-agent-listen-port={free_port()}"
        text = text.replace("ray start --head", f"ray start --head {agent}")
        return run(text, self.shared, self.environment)

    def is_refused(self, command: str) -> str:
        """Run a command that must fail for bad input; its error."""
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.shared, env=self.environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stdout + done.stderr
        return done.stderr

    def jobs(self) -> str:
        return self.does("evo jobs")

    def said(self) -> str:
        return self.jobs() + self.does("evo logs study")

    def generations(self) -> int:
        """Generations of the search that has completed most."""
        parts = [len(list(path.glob("*.parquet"))) for path in self._histories(self.study)]
        return max(parts, default=0)

    def driver(self) -> psutil.Process | None:
        """The process of `evo search` itself."""
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if str(self.study) in words and "search" in words and "--" not in words:
                return process
        return None

    def histories(self, run: Path) -> list[pd.DataFrame]:
        paths = self._histories(run)
        return [pd.read_parquet(path).drop(columns="seconds") for path in paths]

    def _histories(self, run: Path) -> list[Path]:
        return sorted(run.glob("searches/*/history.parquet"))


@pytest.mark.timeout(1800)
def test_every_command_of_the_page(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / "held-out.txt").write_text("\n".join(random_documents(300, 0)))
    with fresh_home(tmp_path_factory.mktemp("home")) as home:
        walk = Walk(tmp_path, home)
        walk.does(f"evo export {teacher_path()} --to hf --native --out hub/pythia-6.9b")
        walk.does("evo import hub/pythia-6.9b --out teachers/pythia-6.9b")
        start, submit, report, pause, extend, plain = blocks("docs/cluster.md")
        walk.does(start)
        _submitted_and_lost(walk, submit)
        assert "fine-layerwise@60%" in Path(walk.does(report).strip()).read_text()
        _paused_and_resumed(walk, pause)
        _extended_and_stopped(walk, extend)
        said = walk.does(plain)
        assert "succeeded" in said
        assert (tmp_path / "runs" / "one-bin" / "summary.json").is_file()


def _submitted_and_lost(walk: Walk, submit: str) -> None:
    said = walk.does(submit)
    assert said.startswith("job study: evo search --population")
    assert "http://127.0.0.1:8265/#/jobs/study\n" in said
    assert f"{DASHBOARD}\n" in said
    again = walk.is_refused("evo submit --name study -- search --teacher a --text b --bins 40%"
                            f" --out {walk.study}")  # fmt: skip
    assert "`evo pause study` first" in again
    wait_until(lambda: walk.generations() >= 2, 60, walk.said)
    listed = walk.jobs()
    for name in ("coarse-uniform@40%", "coarse-uniform@60%", "fine-layerwise@40%",
                 "fine-layerwise@60%"):  # fmt: skip
        assert f"{name}: " in listed
    log = walk.does("evo logs study")
    assert "generation 1/12" in log
    assert f"watch: {DASHBOARD}\n" in log
    found = walk.driver()
    assert found is not None
    found.kill()
    wait_until(lambda: "running (attempt 2)" in walk.jobs(), 120, walk.said)


def _paused_and_resumed(walk: Walk, block: str) -> None:
    pause, resume = [line for line in block.splitlines() if line]
    before = walk.generations()
    wait_until(lambda: walk.generations() > before, 200, walk.said)
    assert "job study is paused" in walk.does(pause)
    assert walk.driver() is None
    assert "paused (attempt 2)" in walk.jobs()
    kept = {path: path.stat().st_mtime_ns for path in walk.study.glob("**/*.parquet")}
    assert "is paused" in walk.is_refused(pause)
    assert "attempt 3" in walk.does(resume)
    assert "already" in walk.is_refused(resume)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


def _extended_and_stopped(walk: Walk, block: str) -> None:
    pause, submit, stop = smaller(block, SEARCH).splitlines()
    walk.does(pause)
    other = walk.is_refused(f"{submit} --out /other".replace("/shared", str(walk.shared)))
    assert f"job study writes to {walk.study}, not to /other" in other
    said = walk.does(submit)
    assert said.count("ended: budget") == 4
    wait_until(lambda: "finished (attempt 4)" in walk.jobs(), 60, walk.said)
    assert "is finished" in walk.is_refused("evo resume study")
    assert walk.generations() == 15

    # Neither the loss nor the pauses have changed anything of the result.
    alone = re.sub(r"^evo submit .*?-- search", "evo search", submit)
    walk.does(alone.replace("/shared/runs/study", "/shared/runs/alone"))
    expected = walk.histories(walk.shared / "runs" / "alone")
    for history, same in zip(walk.histories(walk.study), expected, strict=True):
        pd.testing.assert_frame_equal(history, same, check_exact=True)

    assert f"what it did is in {walk.study}" in walk.does(stop)
    assert "has no jobs" in walk.jobs()
    assert "there is no job 'study'" in walk.is_refused(stop)
