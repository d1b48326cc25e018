"""What takes jobs: a cluster's head, through Ray's Jobs SDK."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from evo.errors import UserError, first_line
from evo.jobs.job import ATTEMPT, NAME, RETRIES_LEFT, Attempt, by_job

logger = logging.getLogger("evo.jobs")

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Where Ray looks for the address."""

NO_AGENT = "No available agent"
"""What the head answers in its first seconds, before there is a process that runs jobs."""

AGENT_SECONDS = 120.0
PAUSE = 2.0
STOP_SECONDS = 60
"""Seconds that a command has to end in order, before Ray kills it; Ray's own default is 3."""


class Cluster:
    """A cluster that takes jobs.

    Args:
        address: of its head, `http://HOST:8265`, or inside the cluster its own; by default what
            `RAY_API_SERVER_ADDRESS` or `RAY_ADDRESS` say, or this machine.

    Raises:
        UserError: nothing answers there, or it wants a token.
    """

    def __init__(self, address: str | None = None) -> None:
        if address is not None:
            for name in ADDRESSES:
                os.environ.pop(name, None)  # they would count more for Ray
        elif not any(name in os.environ for name in ADDRESSES):
            address = DEFAULT_ADDRESS
        if os.path.isfile(os.path.expanduser("~/.ray/auth_token")):
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        found = [os.environ[name] for name in ADDRESSES if name in os.environ]
        self._place = address or found[0]
        with self._errors():
            self._client = JobSubmissionClient(address)
        self.address = self._client.get_address()

    def jobs(self) -> dict[str, list[Attempt]]:
        """The attempts of every job, by its name; the newest job first.

        Raises:
            UserError: the cluster does not answer.
        """
        with self._errors():
            listed = self._client.list_jobs()
        return by_job(one for details in listed if (one := Attempt.of(details)) is not None)

    def last(self, job: str) -> Attempt:
        """The last attempt of a job.

        Raises:
            UserError: there is no such job, or the cluster does not answer.
        """
        jobs = self.jobs()
        if job not in jobs:
            known = ", ".join(jobs) or "none"
            raise UserError(f"there is no job {job!r} at {self._place}: its jobs are {known}")
        return jobs[job][-1]

    def submit(
        self,
        job: str,
        entrypoint: str,
        *,
        metadata: dict[str, str],
        runtime_env: dict[str, Any],
        retries: int,
        number: int = 1,
    ) -> str:
        """Submit an attempt, waiting while the cluster is starting.

        Args:
            job: the job's name.
            entrypoint: what a shell is to run.
            metadata: of the job, for whoever lists it.
            runtime_env: Ray's.
            retries: how often it may be submitted again by itself.
            number: of the attempt.

        Returns:
            Ray's submission id.

        Raises:
            UserError: the cluster refuses it.
        """
        own = {NAME: job, ATTEMPT: str(number), RETRIES_LEFT: str(retries)}
        until, said = time.monotonic() + AGENT_SECONDS, False
        while True:
            try:
                found = self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=job if number == 1 else f"{job}.{number}",
                    metadata={**metadata, **own},
                    runtime_env=runtime_env,
                )
                return str(found)
            except RuntimeError as error:
                if NO_AGENT not in str(error) or time.monotonic() >= until:
                    raise UserError(f"{self._place} takes no job: {_said(error)}") from error
                if not said:
                    logger.info("%s has nothing that runs jobs yet: waiting", self._place)
                said = True
                time.sleep(PAUSE)

    def stop(self, attempt: Attempt) -> None:
        """End an attempt in order, and wait until it has ended.

        Raises:
            UserError: it does not end, or the cluster does not answer.
        """
        with self._errors():
            self._client.stop_job(attempt.id)
        until = time.monotonic() + STOP_SECONDS + 30
        while self._status(attempt) in ("PENDING", "RUNNING"):
            if time.monotonic() >= until:
                raise UserError(f"{attempt.job} does not end: see `evo logs {attempt.job}`")
            time.sleep(0.5)

    def forget(self, attempt: Attempt) -> None:
        """Take an attempt that has ended off the list.

        Raises:
            UserError: the cluster does not answer.
        """
        with self._errors():
            self._client.delete_job(attempt.id)

    def log(self, attempt: Attempt) -> str:
        """What an attempt has said so far.

        Raises:
            UserError: the cluster does not answer, or the log went with its node.
        """
        with self._errors():
            return str(self._client.get_job_logs(attempt.id))

    def follow(self, attempt: Attempt, show: Callable[[str], None]) -> None:
        """Show what an attempt says until it has ended.

        Raises:
            UserError: the cluster does not answer any more.
        """

        async def shown() -> None:
            async for part in self._client.tail_job_logs(attempt.id):
                show(part)

        with self._errors():
            asyncio.run(shown())

    def _status(self, attempt: Attempt) -> str:
        with self._errors():
            return str(self._client.get_job_status(attempt.id).value)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the SDK raises to one line."""
        try:
            yield
        except AuthenticationError as error:
            raise UserError(
                f"{self._place} lets nobody in without its token: copy the head's "
                "~/.ray/auth_token here, and set RAY_AUTH_MODE=token"
            ) from error
        except (
            OSError, RuntimeError, ValueError, requests.RequestException, aiohttp.ClientError
        ) as error:  # fmt: skip
            raise UserError(
                f"no cluster takes jobs at {self._place} ({_said(error)}): give --address "
                "http://HEAD:8265"
            ) from error


def _said(error: BaseException) -> str:
    return first_line(error).rstrip(".")
