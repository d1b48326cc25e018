"""The settings of the commands about jobs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evo.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Submitted:
    """A command that is to be submitted.

    Attributes:
        name: of the command.
        words: what follows it.
        config: its settings.
    """

    name: str
    words: tuple[str, ...]
    config: Any


@dataclass(frozen=True, kw_only=True)
class AddressConfig:
    """Where jobs are.

    Attributes:
        address: of the cluster's head, http://HEAD:8265; by default what RAY_API_SERVER_ADDRESS or
            RAY_ADDRESS say, or http://127.0.0.1:8265.
    """

    address: str | None = None


@dataclass(frozen=True, kw_only=True)
class SubmitConfig(AddressConfig):
    """Run a command as a job on a Ray cluster: evo submit -- search --teacher ... .

    Paths are the cluster's. The same line again goes on where the job was, also with more
    generations, bins or the like.

    Attributes:
        name: of the job; by default the command's and that of its --out.
        retries: how often a job whose driver is lost, with its node or killed, is submitted again
            by itself.
        working_dir: directory or package whose copy the job runs in, such as a checkout of this
            project; by default the cluster's own installation is used.
        follow: show what the job says until it ends. The job does not end with this command.

    Raises:
        UserError: a value that makes no sense.
    """

    name: str | None = None
    retries: int = 3
    working_dir: Path | None = None
    follow: bool = False

    def __post_init__(self) -> None:
        if self.name is not None and not NAME.fullmatch(self.name):
            raise UserError(
                f"--name {self.name}: give letters, digits, dots, dashes and underscores"
            )
        if self.retries < 0:
            raise UserError(f"--retries {self.retries} cannot be: give 0 or more")


@dataclass(frozen=True, kw_only=True)
class JobsConfig(AddressConfig):
    """List the jobs of a cluster, and how far their searches are."""


@dataclass(frozen=True, kw_only=True)
class JobConfig(AddressConfig):
    """Which job.

    Attributes:
        job: its name.
    """

    job: str


@dataclass(frozen=True, kw_only=True)
class LogsConfig(JobConfig):
    """Show what a job has said.

    Attributes:
        follow: go on until the job ends.
    """

    follow: bool = False


@dataclass(frozen=True, kw_only=True)
class PauseConfig(JobConfig):
    """End a job in order, so that its GPUs are free; `evo resume` goes on where it was."""


@dataclass(frozen=True, kw_only=True)
class ResumeConfig(JobConfig):
    """Go on with a job that was paused, was lost or has failed.

    Attributes:
        retries: how often it is submitted again by itself when its driver is lost.
    """

    retries: int = 3


@dataclass(frozen=True, kw_only=True)
class StopConfig(JobConfig):
    """End a job for good and take it off the list; its run directory stays as it is."""
