"""A job: a command that runs on a cluster, through all the attempts that it has taken.

Ray runs a submission once. As every command goes on where it was, a job is a name under which one
submission follows another: after a pause, or after its driver was lost with its node.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails

NAME, ATTEMPT, RETRIES_LEFT = "evo_job", "evo_attempt", "evo_retries_left"
"""Keys of a submission's metadata, beside those of `describe`."""

STATES = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "STOPPED": "paused",
    "SUCCEEDED": "finished",
    "FAILED": "failed",
}
"""What Ray's states are called here: a submission that was stopped can go on."""

LOST = (
    "JOB_SUPERVISOR_ACTOR_DIED",
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE",
    "JOB_SUPERVISOR_ACTOR_START_FAILURE",
)
"""Ray's error types of a driver that went with its node, or with the process that watches it."""

SIGNAL = 128
"""A shell's exit codes from here on are a signal's that ended the process."""


@dataclass(frozen=True)
class Attempt:
    """One submission of a job.

    Attributes:
        job: the job's name.
        number: from 1.
        id: Ray's submission id.
        entrypoint: the line that a shell runs.
        status: Ray's, a key of `STATES`.
        message: Ray's, on the status.
        error_type: Ray's; None where nothing went wrong, or Ray does not say.
        exit_code: of the driver; None while it runs, or where it was lost.
        began: seconds since the epoch; None before it has.
        metadata: as it was submitted.
        runtime_env: likewise.
    """

    job: str
    number: int
    id: str
    entrypoint: str
    status: str
    message: str
    error_type: str | None
    exit_code: int | None
    began: float | None
    metadata: dict[str, str]
    runtime_env: dict[str, Any]

    @classmethod
    def of(cls, details: JobDetails) -> Attempt | None:
        """The attempt that Ray lists; None where another program has submitted it."""
        metadata = details.metadata or {}
        number = metadata.get(ATTEMPT, "")
        if NAME not in metadata or not number.isdecimal() or details.submission_id is None:
            return None
        return cls(
            job=metadata[NAME],
            number=int(number),
            id=details.submission_id,
            entrypoint=details.entrypoint,
            status=str(details.status.value),
            message=details.message or "",
            error_type=details.error_type,
            exit_code=details.driver_exit_code,
            began=details.start_time / 1000 if details.start_time else None,
            metadata=metadata,
            runtime_env=details.runtime_env or {},
        )

    @property
    def is_open(self) -> bool:
        """Whether it runs, or is about to."""
        return self.status in ("PENDING", "RUNNING")

    @property
    def was_lost(self) -> bool:
        """Whether it failed by no fault of its own: its node, or its process, was ended."""
        if self.status != "FAILED":
            return False
        if self.exit_code is None:
            return self.error_type in LOST
        return self.exit_code < 0 or self.exit_code >= SIGNAL

    @property
    def retries_left(self) -> int:
        """How often it may be submitted again by itself."""
        left = self.metadata.get(RETRIES_LEFT, "0")
        return int(left) if left.isdecimal() else 0

    @property
    def state(self) -> str:
        """What a user calls it."""
        if self.was_lost:
            return "lost" if self.retries_left == 0 else "lost, submitted again"
        return STATES.get(self.status, self.status.lower())

    @property
    def command(self) -> str:
        """The command's name."""
        words = shlex.split(self.entrypoint)
        return words[1] if len(words) > 1 and words[0] == "evo" else words[0]


def by_job(attempts: Iterable[Attempt]) -> dict[str, list[Attempt]]:
    """The attempts of each job, the first one first; the job that began last comes first."""
    jobs: dict[str, list[Attempt]] = {}
    for attempt in sorted(attempts, key=lambda one: one.number):
        jobs.setdefault(attempt.job, []).append(attempt)
    return dict(sorted(jobs.items(), key=lambda item: -(item[1][-1].began or 0.0)))
