"""What is measured on a worker before a run's searches begin: order, importance, micro-batch."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from evo.commands.search.inputs import SearchInputs
from evo.errors import UserError
from evo.genome.importance_proxy import Importance, Proxy
from evo.genome.ranking import Order
from evo.storage.run_directory import settle
from workers.tasks.micro_batch import find_micro_batch, largest
from workers.tasks.ranking import measure_importance, measure_sensitivity, rank

logger = logging.getLogger("evo.search")

SIZE_SAMPLES = 32
"""Candidates of each search among which the largest is looked for."""


def order_of(inputs: SearchInputs) -> Order:
    """The order of a run, ranked when it is first asked for, then kept in the run directory."""
    path, kind = inputs.config.out / "order.npz", inputs.config.order
    order = Order.load(path) if path.is_file() else None
    if order is None:
        if kind != "index":
            logger.info("ranking the teacher's parts by %s", kind)
        order = rank(inputs.ranking, kind)
    elif order.dimensions != inputs.teacher.architecture.dimensions:
        raise UserError(f"{path} is the order of another teacher: remove it to rank anew")
    lacks_sensitivity = inputs.needs_sensitivity and order.sensitivity is None
    if lacks_sensitivity:
        logger.info("measuring what thinning each layer costs")
        sensitivity = measure_sensitivity(inputs.ranking, kind, order)
        order = replace(order, sensitivity=sensitivity)
    if lacks_sensitivity or not path.is_file():
        order.save(path)
    return order


def proxy_of(inputs: SearchInputs) -> Proxy | None:
    """The fitness of a run, where it needs no scoring; its importance is kept with the run."""
    if not inputs.has_proxy:
        return None
    path = inputs.config.out / "importance.npz"
    if not path.is_file():
        measure_importance(inputs.ranking, inputs.config.fitness).save(path)
    return Proxy(Importance.load(path), inputs.teacher.config.head_size)


def with_micro_batch(inputs: SearchInputs, order: Order) -> SearchInputs:
    """Find the micro-batch where it was left open: by the largest of some candidates."""
    if inputs.scoring.micro_batch is not None:
        return inputs
    rng = np.random.default_rng(inputs.config.seed)
    sequences = max(stop - start for start, stop in inputs.screening.stages.shards)
    candidates = [
        inputs.space(space, bin, order).sample(rng)
        for bin in inputs.bins
        for space in inputs.config.spaces
        for _ in range(SIZE_SAMPLES)
    ]
    tokens = sequences * inputs.blocks.shape[1]
    micro_batch = find_micro_batch(
        inputs.store.get(),
        largest(candidates, inputs.teacher.architecture, tokens),
        inputs.blocks[:sequences],
        inputs.scoring,
        inputs.config.gpus_per_worker,
    )
    logger.info("a micro-batch of %d sequences fits", micro_batch)
    settle(inputs.config.out, "micro_batch", micro_batch)
    return replace(inputs, scoring=replace(inputs.scoring, micro_batch=micro_batch))
