"""What a command ends with besides success: bad input, or a run that came to nothing."""

from __future__ import annotations

import re


class UserError(Exception):
    """Bad input, said in one line: what is wrong, where, and what would be right.

    The command line prints it without a traceback and ends with exit code 2.
    """


class RunFailed(Exception):
    """A run has ended, and without what was asked for; said in one line.

    The command line prints it without a traceback and ends with exit code 1.
    """


def first_line(error: BaseException) -> str:
    """What another library's error says, short enough to be part of a `UserError`'s line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r" at 0x[0-9a-f]+", "", lines[0])[:200]  # where an object lies says nothing
