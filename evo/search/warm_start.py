"""Begin a search from another run's population instead of from random samples only.

The best candidates of every search of that run are taken once, into `start.parquet` of the new run,
so that it stays the same if the other one goes on. A subnet of another space or bin is brought into
this one: layers that must be alike get their mean widths and keep what most of them keep, coarse
spaces keep only the widths, and the bin is reached by the smallest change. Half of the first
generation begins so; the rest are random samples, for the other run may have been where its own
bins are, and nowhere else.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator

from evo.algorithms.base import Proposal
from evo.errors import UserError
from evo.genome.cost import Architecture
from evo.genome.operators.rank_genes import Genes
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.genome.subnet import Mask, Subnet
from evo.search.history.history import History
from evo.search.niches import in_turns, scored_in_full
from evo.storage.files import atomic_file
from evo.storage.records import built, reading
from evo.storage.run_directory import read_settings

FILE = "start.parquet"
SHARE = 0.5
"""The share of the first generation that comes from the other run."""


@dataclass(frozen=True)
class Taken:
    """A candidate of another run.

    Attributes:
        search: of that run, `SPACE@BIN`.
        candidate: its id.
        fitness: there, where bins and text may have been others.
        genome: the packed masks.
    """

    search: str
    candidate: str
    fitness: float
    genome: bytes


def take(run: Path, teacher_hash: str, count: int, *, niches: bool = False) -> list[Taken]:
    """The best candidates of each search of a run, finished or not.

    Args:
        run: its directory.
        teacher_hash: of this run's teacher.
        count: how many of each search, at most.
        niches: take the best of every number of layers before the second best of any.

    Returns:
        Search by search, the best first; only what was scored in full.

    Raises:
        UserError: no run, one of another teacher, or one without a candidate scored in full.
    """
    settings = read_settings(run)
    if settings.get("teacher_hash") != teacher_hash:
        raise UserError(
            f"--start-from {run}: it searched another teacher ({settings.get('teacher')}), so its "
            "candidates mean nothing here; give a run of the same teacher"
        )
    taken = []
    for path in sorted(run.glob("searches/*/history.parquet")):
        history = History(path.parent)
        found = history.frame(("candidate", "generation", "layers", "status", "fitness"))
        best = in_turns(found) if niches else scored_in_full(found)
        taken += [
            Taken(path.parent.name, row.candidate, row.fitness, row.genome)
            for row in history.rows(best[:count])
        ]
    if not taken:
        raise UserError(f"--start-from {run}: it has no candidate that is scored in full yet")
    return taken


def save(taken: Sequence[Taken], path: Path) -> None:
    """Write as parquet, whole or not at all."""
    with atomic_file(path) as temporary:
        pd.DataFrame([asdict(one) for one in taken]).to_parquet(temporary, index=False)


def load(path: Path) -> list[Taken]:
    """Read what `save` wrote.

    Raises:
        UserError: it is damaged.
    """
    with reading(path):
        table = pd.read_parquet(path)[list(Taken.__dataclass_fields__)]
        return built(table.to_dict("records"), list[Taken])


def digest(taken: Sequence[Taken]) -> str:
    """16 hexadecimal digits: the hash of what was taken."""
    content = hashlib.blake2b(digest_size=8)
    for one in taken:
        content.update(f"{one.search} {one.candidate} {one.fitness!r} ".encode() + one.genome)
    return content.hexdigest()


def starts(taken: Sequence[Taken], space: Space, population: int, rng: Generator) -> list[Proposal]:
    """The beginning of a search's first generation.

    The searches of the other run are gone through in turn, best candidates first, beginning with
    the one of this space and bin, then by how near to this bin the cost of their best is.

    Args:
        taken: from the other run.
        space: of this search.
        population: of this search.
        rng: breaks ties on the way into the bin.

    Returns:
        Half a population at most, each candidate once.
    """
    dimensions = space.architecture.dimensions
    searches: dict[str, list[Subnet]] = {}
    for one in taken:
        subnet = Subnet.unpack(one.genome, dimensions)
        searches.setdefault(one.search, []).append(subnet)
    center = math.sqrt(space.bin.low * space.bin.high)

    def distance(search: str) -> tuple[bool, float, str]:
        cost = space.bin.cost.of(space.architecture, searches[search][0].widths)
        is_other = search != f"{space.name}@{space.bin.name}"
        return is_other, abs(math.log(cost / center)), search

    found: dict[str, Proposal] = {}
    for round in zip_longest(*(searches[name] for name in sorted(searches, key=distance))):
        for subnet in round:
            if subnet is None or len(found) >= math.ceil(SHARE * population):
                continue
            fitted = brought_into(subnet, space, rng)
            found.setdefault(fitted.id, Proposal(fitted, "start"))
    return list(found.values())


def brought_into(subnet: Subnet, space: Space, rng: Generator) -> Subnet:
    """The subnet of a space and its bin that is near to one of any space and bin.

    One that is in both already stays as it is.
    """
    if space.uniform:
        subnet = alike(subnet, space.order)
    return space.varied(subnet, _unchanged, rng)


def alike(subnet: Subnet, order: Order) -> Subnet:
    """A subnet whose layers all keep the same ranks.

    Of groups and of neurons as many as the kept layers do in the mean; which, their majority says,
    among equals the order.
    """

    def common(masks: Mask, ranks: np.ndarray) -> Mask:
        by_rank = np.empty_like(masks)
        np.put_along_axis(by_rank, ranks, masks, axis=1)
        kept = by_rank[subnet.layers]
        count = max(1, round(kept.sum() / len(kept)))
        chosen = np.zeros(masks.shape[1], np.bool_)
        chosen[np.argsort(-kept.sum(0), kind="stable")[:count]] = True
        return chosen[ranks]

    return replace(
        subnet,
        groups=common(subnet.groups, order.groups),
        neurons=common(subnet.neurons, order.neurons),
    )


def _unchanged(
    genes: Genes, architecture: Architecture, rng: Generator, *, fine: bool, uniform: bool
) -> Genes:
    return genes
