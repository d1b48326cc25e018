"""A candidate's row of the history, made from its scores or from a proxy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from evo.algorithms.base import Proposal
from evo.genome.cost import parameters
from evo.genome.importance_proxy import Proxy
from evo.genome.space import Space
from evo.search.generation import Screening, failures
from evo.search.history.row import Row, Status, perplexity
from evo.search.shard_score import ShardScore


def scored_row(
    proposal: Proposal,
    generation: int,
    space: Space,
    scores: Sequence[tuple[int, ShardScore]],
    screening: Screening,
) -> Row:
    """The row of a candidate that was scored.

    `scores` are those on the candidate's first shards, by number. `screening` has the stages of its
    generation.
    """
    reasons = failures(scores, space.bin)
    latencies = [score.latency for _, score in scores if score.latency is not None]
    status: Status = "full" if len(scores) == len(screening.stages.shards) else "screened"
    fitness = nll = math.nan
    if reasons:
        status = "failed"
    else:
        shards = [(screening.stages.shards[shard], score) for shard, score in scores]
        mean = screening.weights.mean
        fitness = mean((rows, score.losses, score.tokens) for rows, score in shards)
        nll = mean((rows, score.nll, score.tokens) for rows, score in shards)
    columns = _columns(proposal, generation, space)
    if latencies:
        columns["cost"] = latencies[0]
    return Row(
        **columns,
        fitness=fitness,
        nll=nll,
        perplexity=perplexity(nll),
        tokens=sum(score.tokens for _, score in scores),
        seconds=sum(score.seconds for _, score in scores),
        status=status,
        reason=reasons[0] if reasons else "",
    )


def proxy_row(proposal: Proposal, generation: int, space: Space, proxy: Proxy) -> Row:
    """The row of a candidate whose fitness needs no scoring; it has no NLL."""
    return Row(
        **_columns(proposal, generation, space),
        fitness=proxy.fitness(proposal.subnet),
        nll=math.nan,
        perplexity=math.nan,
        tokens=0,
        seconds=0,
        status="full",
        reason="",
    )


def _columns(proposal: Proposal, generation: int, space: Space) -> dict[str, Any]:
    """The columns that are known before a candidate is scored."""
    subnet, widths = proposal.subnet, proposal.subnet.widths
    return {
        "candidate": subnet.id,
        "generation": generation,
        "operator": proposal.operator,
        "parents": proposal.parents,
        "params": parameters(space.architecture, widths),
        "cost": space.bin.cost.of(space.architecture, widths),
        "layers": widths.layers,
        "channels": widths.channels,
        "groups": widths.groups,
        "neurons": widths.neurons,
        "head_size": widths.head_size or space.architecture.head_size,
        "genome": subnet.pack(),
    }
