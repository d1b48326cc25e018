from __future__ import annotations

from typing import Any

import pytest
from ray.dashboard.modules.job.pydantic_models import JobDetails

from evo.jobs.job import Attempt, by_job

OURS = {"evo_job": "study", "evo_attempt": "1", "evo_retries_left": "3"}


def details(**changes: Any) -> JobDetails:
    given = {
        "type": "SUBMISSION", "submission_id": "study", "status": "RUNNING",
        "entrypoint": "evo search --out '/shared/a run'", "metadata": OURS, "start_time": 5000,
    }  # fmt: skip
    return JobDetails(**given | changes)


def attempt(**changes: Any) -> Attempt:
    found = Attempt.of(details(**changes))
    assert found is not None
    return found


def test_other_programs_jobs_are_none_of_ours() -> None:
    for metadata in (None, {}, {"evo_job": "study"}, OURS | {"evo_attempt": "first"}):
        assert Attempt.of(details(metadata=metadata)) is None
    assert Attempt.of(details(submission_id=None)) is None


def test_what_ray_says_in_the_words_of_a_user() -> None:
    one = attempt()
    assert (one.job, one.number, one.command, one.began) == ("study", 1, "search", 5.0)
    states = [attempt(status=status).state for status in
              ("PENDING", "RUNNING", "STOPPED", "SUCCEEDED")]  # fmt: skip
    assert states == ["waiting", "running", "paused", "finished"]
    assert [attempt(status=status).is_open for status in ("PENDING", "RUNNING", "STOPPED")] == [
        True, True, False
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error_type", "exit_code", "lost"),
    [
        ("JOB_SUPERVISOR_ACTOR_DIED", None, True),  # its node has gone
        ("JOB_ENTRYPOINT_COMMAND_ERROR", 137, True),  # kill -9, as the system does without memory
        ("JOB_ENTRYPOINT_COMMAND_ERROR", -9, True),
        ("JOB_ENTRYPOINT_COMMAND_ERROR", 143, True),  # a SIGTERM that did not come from Ray
        ("JOB_ENTRYPOINT_COMMAND_ERROR", 2, False),  # bad input
        ("JOB_ENTRYPOINT_COMMAND_ERROR", 1, False),
        ("RUNTIME_ENV_SETUP_FAILURE", None, False),
        (None, None, False),
    ],
)
def test_only_what_was_lost_is_tried_again(
    error_type: str | None, exit_code: int | None, lost: bool
) -> None:
    failed: dict[str, Any] = {"status": "FAILED", "error_type": error_type}
    one = attempt(**failed, driver_exit_code=exit_code)
    assert one.was_lost == lost
    assert one.state == ("lost, submitted again" if lost else "failed")
    last = attempt(**failed, driver_exit_code=exit_code, metadata=OURS | {"evo_retries_left": "0"})
    assert last.state == ("lost" if lost else "failed")
    assert not attempt(status="STOPPED", driver_exit_code=143).was_lost


def test_attempts_of_a_job_in_order_and_the_newest_job_first() -> None:
    second = attempt(metadata=OURS | {"evo_attempt": "2"}, submission_id="study.2", start_time=9000)
    other = attempt(metadata=OURS | {"evo_job": "other"}, submission_id="other", start_time=6000)
    third = attempt(
        metadata=OURS | {"evo_attempt": "10"}, submission_id="study.10", start_time=None
    )
    jobs = by_job([third, second, other, attempt()])
    assert {name: [one.number for one in each] for name, each in jobs.items()} == {
        "study": [1, 2, 10], "other": [1]
    }  # fmt: skip
    assert list(jobs) == ["other", "study"]  # which began last
