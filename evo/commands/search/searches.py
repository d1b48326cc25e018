"""The searches of a run, one for every bin and space, and the pool that scores for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import numpy as np
from numpy.random import Generator

from evo.algorithms.base import Proposal, Strategy
from evo.algorithms.evolution import Evolution
from evo.algorithms.local_search import LocalSearch
from evo.algorithms.map_elites import MapElites
from evo.algorithms.one_plus_lambda import OnePlusLambda
from evo.algorithms.one_shot import OneShot, one_shot
from evo.algorithms.random_search import RandomSearch
from evo.commands.search.config import SearchConfig
from evo.commands.search.inputs import SearchInputs
from evo.errors import UserError
from evo.genome.importance_proxy import Proxy
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.search import warm_start
from evo.search.history.history import History
from evo.search.progress import Progress
from evo.search.score_cache import ScoreCache, score_key
from evo.search.search import Search
from evo.search.spent import Spent
from evo.storage.cache import do_without
from evo.storage.files import cache_directory
from workers.pool.pool import Pool
from workers.pool.shared_pool import SharedPool


def searches_of(
    inputs: SearchInputs, order: Order, proxy: Proxy | None, spent: Spent
) -> list[Search]:
    """A search for every bin and space, resumed from its files.

    Args:
        inputs: of the run.
        order: of the teacher's parts.
        proxy: what is minimised, where nothing is scored.
        spent: the time that the run has taken, which may be limited.
    """
    # A score from the cache has no latency.
    cached = inputs.config.score_cache and not proxy and inputs.config.cost != "latency"
    cache = _cache(inputs) if cached else None
    limit = partial(inputs.config.reached, spent=spent)
    return [
        _search(inputs, inputs.space(space, bin, order), cache, proxy, limit)
        for bin in inputs.bins
        for space in inputs.config.spaces
    ]


def open_pool(inputs: SearchInputs) -> Pool | SharedPool:
    """The workers: this run's own, or those of the pool that it names."""
    config, settings = inputs.config, inputs.config.pool_settings
    if config.pool is None:
        return Pool(inputs.store.get(), inputs.pool_blocks, inputs.scoring, settings)
    inputs.store.release()  # the named pool stores weights of its own
    return SharedPool(
        config.pool,
        inputs.teacher.path,
        inputs.teacher.hash,
        inputs.pool_blocks,
        inputs.scoring,
        settings,
        idle=config.pool_idle,
    )


def _cache(inputs: SearchInputs) -> ScoreCache | None:
    scoring = asdict(inputs.scoring)
    without = "cache_bytes", "teacher_bytes", "device_share", "latency_length"  # change no bits
    for name in without:
        scoring.pop(name, None)
    teacher = f"{inputs.teacher.hash} {inputs.teacher.config}"
    key = score_key(teacher, inputs.blocks, scoring)
    try:
        return ScoreCache(cache_directory() / "scores", key)
    except UserError as error:
        do_without(error)
        return None


def _search(
    inputs: SearchInputs,
    space: Space,
    cache: ScoreCache | None,
    proxy: Proxy | None,
    limit: Callable[[Progress], str | None],
) -> Search:
    name = f"{space.name}@{space.bin.name}"
    history = History(inputs.config.out / "searches" / name)
    seed = _seed(inputs.config.seed, name)
    strategy = _strategy(inputs.config, space, seed)
    if history.state is None:
        rng = np.random.default_rng([*seed, 1])  # a stream of its own
        strategy.starts = _starts(inputs, space, rng)
    gate_text = inputs.gate_text if space.fine else None
    return Search(name, strategy, history, inputs.screening, cache, proxy, gate_text, limit)


def _starts(inputs: SearchInputs, space: Space, rng: Generator) -> list[Proposal]:
    """What a search begins with besides samples: what is taken from another run and, so that it
    takes part in a train-off, the network by one-shot pruning."""
    config, population = inputs.config, inputs.config.budget.population
    found = warm_start.starts(inputs.starts, space, population, rng)
    if config.niches and config.in_bin == "fit" and len(found) < population:
        pruned = one_shot(space, rng)
        found = [one for one in found if one.subnet.id != pruned.subnet.id] + [pruned]
    return found


def _strategy(config: SearchConfig, space: Space, seed: list[int]) -> Strategy:
    if config.algorithm == "random":
        return RandomSearch(space, config.budget, seed)
    if config.algorithm == "local":
        return LocalSearch(space, config.budget, seed)
    if config.algorithm == "one-plus-lambda":
        return OnePlusLambda(space, config.budget, seed)
    if config.algorithm == "one-shot":
        return OneShot(space, config.budget, seed)
    kind = MapElites if config.niches else Evolution
    strategy = kind(space, config.budget, seed, config.rates)
    if config.rates.proposals > 1:
        # scikit-learn takes a second to import.
        from evo.algorithms.surrogate import Surrogate

        strategy.chooser = Surrogate(space, strategy.niche)
    return strategy


def _seed(seed: int, name: str) -> list[int]:
    """Searches of one run draw from streams of their own."""
    return [seed, int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")]
