"""When a search ends before its budget: after hours, GPU-hours or tokens, or at a perplexity.

Tokens and perplexity are a search's own, looked at when a generation has ended, so that a search
ends at the same one on any number of workers. Hours are the whole run's, over all its starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from evo.errors import UserError
from evo.quantities import Count

if TYPE_CHECKING:
    from evo.search.progress import Progress
    from evo.search.spent import Spent


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """Where a search ends, besides its budget; None: it does not end by this.

    Attributes:
        max_hours: end all searches when the run has gone on for so many hours, over all its starts;
            each ends with a generation, and has a winner. As all limits, it may be changed.
        max_gpu_hours: end all searches when their workers' GPUs have been held for so many hours.
        max_tokens_scored: end a search when it has scored so many tokens.
        target_perplexity: end a search when its best candidate's perplexity is at most this.

    Raises:
        UserError: a limit that is reached before anything is scored.
    """

    max_hours: float | None = None
    max_gpu_hours: float | None = None
    max_tokens_scored: Count | None = None
    target_perplexity: float | None = None

    def __post_init__(self) -> None:
        for field in fields(Stopping):
            value = getattr(self, field.name)
            least = 1 if field.name == "target_perplexity" else 0
            if value is not None and not value > least:
                flag = field.name.replace("_", "-")
                raise UserError(f"--{flag} {value:g} cannot be: give more than {least}")

    def reached(self, progress: Progress, spent: Spent) -> str | None:
        """The limit that a search has come to after a generation, as its flag is called."""
        values = {
            "max_hours": spent.seconds / 3600,
            "max_gpu_hours": spent.gpu_seconds / 3600,
            "max_tokens_scored": progress.tokens,
        }
        for name, value in values.items():
            limit = getattr(self, name)
            if limit is not None and value >= limit:
                return name.replace("_", "-")
        target = self.target_perplexity
        if target is not None and progress.best is not None and progress.best <= math.log(target):
            return "target-perplexity"
        return None


LIMITS = tuple(field.name for field in fields(Stopping))
