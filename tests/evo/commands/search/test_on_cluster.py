"""A search as a Ray job on a cluster with token authentication, watched through its metrics."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from evo import metrics as names
from tests.support.heads import RAY, Head, running_head, wait_until

ROOT = Path(__file__).parents[4]
GENERATIONS = 4
"""So many that the search goes on while metrics are reported several times."""

pytestmark = [pytest.mark.ray, pytest.mark.own_cluster]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head() as head:
        yield head


def series(metrics: str) -> set[tuple[str, str]]:
    """The names and bins of a search's metrics that the endpoint shows now."""
    try:
        text = urllib.request.urlopen(f"{metrics}/metrics", timeout=10).read().decode()
    except OSError:
        return set()
    return {
        (sample.name, sample.labels["bin"])
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("ray_evo_search_")
    }


@pytest.mark.slow
def test_a_submitted_search_ends_well_and_shows_every_metric_without_a_gap(
    head: Head, teacher: Callable[[str], Path], tmp_path: Path
) -> None:
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 112, (400, 80)))
    search = [
        "evo", "search", "--teacher", str(teacher("llama")), "--text",
        str(tmp_path / "tokens.npy"), "--bins", "40%", "60%", "--out", str(tmp_path / "run"),
        "--population", "8", "--generations", str(GENERATIONS), "--order", "index",
        "--shard-tokens", "8000", "--rungs", "full",
    ]  # fmt: skip
    submit = [RAY, "job", "submit", f"--address={head.dashboard}", "--working-dir", str(ROOT),
              "--no-wait", "--submission-id=search", "--", *search]  # fmt: skip
    said = ""

    def submitted() -> bool:  # the head answers before the agent is there that takes jobs
        nonlocal said
        done = subprocess.run(
            submit, env=head.environment, capture_output=True, text=True, timeout=120, check=False
        )
        said = done.stdout + done.stderr
        return done.returncode == 0 or "already exists" in said

    wait_until(submitted, 120, lambda: said)

    def ask(path: str) -> dict:
        token = Path(head.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{head.dashboard}/api/jobs/{path}", headers=headers)
        return json.loads(urllib.request.urlopen(request, timeout=30).read())

    def status() -> str:
        return str(ask("search")["status"])

    wanted = {
        (metric.series, bin)
        for bin in ("40%", "60%")
        for metric in names.SEARCH
        if metric not in (names.SCREENED, names.FAILED, names.GPU_SECONDS)  # there are none
    }
    seen: list[set[tuple[str, str]]] = []

    def ended() -> bool:
        if not (tmp_path / "run" / "summary.json").exists():
            seen.append(series(head.metrics) & wanted)
        return status() in ("SUCCEEDED", "FAILED", "STOPPED")

    wait_until(ended, 200, status)
    logs = str(ask("search/logs")["logs"])
    assert status() == "SUCCEEDED", logs
    assert len(json.loads((tmp_path / "run" / "summary.json").read_text())["searches"]) == 2
    for generation in range(GENERATIONS + 1):
        assert logs.count(f"generation {generation}/{GENERATIONS}") == 2, logs
    complete = [index for index, found in enumerate(seen) if found == wanted]
    assert complete, f"never all there: {wanted - set().union(*seen)}"
    for found in seen[complete[0] :]:
        assert found == wanted, f"a gap: {wanted - found}"


def test_a_job_without_the_token_is_refused(head: Head) -> None:
    stranger = {k: v for k, v in head.environment.items() if not k.startswith("RAY_AUTH")}
    stranger["HOME"] = "/nonexistent"
    done = subprocess.run(
        [RAY, "job", "list", f"--address={head.dashboard}"],
        env=stranger, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "auth" in (done.stdout + done.stderr).lower()
