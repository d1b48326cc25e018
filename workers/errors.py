"""Errors that come from another process."""

from __future__ import annotations

from ray.exceptions import RayTaskError

from evo.errors import UserError


def raise_user_error(error: RayTaskError) -> None:
    """Raise the `UserError` that a call on a worker ended with, without Ray's traceback around it.

    Does nothing where the call ended with another error.
    """
    if isinstance(error.cause, UserError):
        raise UserError(str(error.cause)) from None
