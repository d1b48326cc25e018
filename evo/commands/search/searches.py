"""The lanes of a study: a search for every bin and space."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import numpy as np

from evo.algorithms.base import Strategy
from evo.algorithms.evolution import Evolution
from evo.algorithms.local_search import LocalSearch
from evo.algorithms.one_plus_lambda import OnePlusLambda
from evo.algorithms.random_search import RandomSearch
from evo.commands.search.config import SearchConfig
from evo.commands.search.inputs import SearchInputs
from evo.genome.bins import Bin
from evo.genome.importance_proxy import Importance, Proxy
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.search import warm_start
from evo.search.history import History
from evo.search.score_cache import ScoreCache, score_key
from evo.search.search import Lane
from evo.storage.files import cache_directory
from workers.tasks.ranking import measure_importance


def lanes_of(inputs: SearchInputs, order: Order) -> list[Lane]:
    """A lane for every bin and space."""
    cached = inputs.config.score_cache and not inputs.proxy
    if inputs.config.cost == "latency":
        cached = False  # a score from the cache has no latency
    cache = _cache(inputs) if cached else None
    proxy = _proxy(inputs)
    return [
        _lane(inputs, space, bin, order, cache, proxy)
        for bin in inputs.bins
        for space in inputs.config.spaces
    ]


def _cache(inputs: SearchInputs) -> ScoreCache:
    scoring = asdict(inputs.scoring)
    without = "cache_bytes", "teacher_bytes", "device_share", "latency_length"  # change no bits
    for name in without:
        scoring.pop(name, None)
    teacher = f"{inputs.teacher.hash} {inputs.teacher.config}"
    return ScoreCache(cache_directory() / "scores", score_key(teacher, inputs.blocks, scoring))


def _lane(
    inputs: SearchInputs,
    space_name: str,
    bin: Bin,
    order: Order,
    cache: ScoreCache | None,
    proxy: Proxy | None,
) -> Lane:
    name = f"{space_name}@{bin.name}"
    space = inputs.space(space_name, bin, order)
    history = History(inputs.config.out / "searches" / name)
    seed = _seed(inputs.config.seed, name)
    strategy = _strategy(inputs.config, space, seed)
    if inputs.taken and history.state is None:
        rng = np.random.default_rng([*seed, 1])  # a stream of its own
        strategy.starts = warm_start.starts(
            inputs.taken, space, inputs.config.budget.population, rng
        )
    return Lane(
        name,
        strategy,
        history,
        inputs.stages,
        inputs.config.stages,
        weights=inputs.weights,
        cache=cache,
        proxy=proxy,
    )


def _strategy(config: SearchConfig, space: Space, seed: list[int]) -> Strategy:
    if config.algorithm == "random":
        return RandomSearch(space, config.budget, seed)
    if config.algorithm == "local":
        return LocalSearch(space, config.budget, seed)
    if config.algorithm == "one-plus-lambda":
        return OnePlusLambda(space, config.budget, seed)
    return Evolution(space, config.budget, seed, config.rates)


def _proxy(inputs: SearchInputs) -> Proxy | None:
    """The fitness, where that is one that needs no scoring."""
    if not inputs.proxy:
        return None
    path = inputs.config.out / "importance.npz"
    if not path.is_file():
        measure_importance(
            inputs.teacher.path.resolve(),
            inputs.teacher.hash,
            inputs.config.fitness,
            inputs.order_text.blocks,
            inputs.order_text.hash,
            inputs.scoring,
            inputs.config.gpus_per_worker,
        ).save(path)
    return Proxy(Importance.load(path), inputs.teacher.config.head_size)


def _seed(seed: int, name: str) -> list[int]:
    """Searches of one run draw from streams of their own."""
    return [seed, int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")]
