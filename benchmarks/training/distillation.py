"""What distillation costs: its memory against the naive form, its time against a plain step.

    python -m benchmarks.training.distillation

Random weights. Memory: the loss and its gradients alone, with a vocabulary of 50304, each form in a
process of its own; it is the largest resident memory beyond what there was before (inputs and
imports). Time: a student of pythia-160m's shape and a teacher of pythia-410m's, whole forward and
backward passes without the optimiser, all ways in turn, the median of five, in a process that keeps
its memory as a worker of `evo pretrain` does. It wants an idle machine. Writes distillation.json
and distillation.md beside this file.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from litgpt.config import Config
from litgpt.model import GPT
from torch import Tensor
from torch.nn import functional

from benchmarks.machine import measured_on, sentence
from training.loop.student import Student
from training.losses.chunked_loss import (
    Head,
    TeacherStates,
    cast,
    logits_of,
    rows_per_chunk,
    summed_losses,
)
from training.losses.settings import DivergenceKind, LossSettings
from training.setup.launch import KEEP_MEMORY
from training.teacher.network import TeacherNetwork, teacher_states, teacher_top_k

HERE = Path(__file__).parent
VOCABULARY = 50304
REAL = 50277
"""Pythia's tokens, without padding."""

POSITIONS, CHANNELS, TEACHER_CHANNELS = 2048, 512, 768
"""Of the measurement of memory."""

STUDENT, TEACHER = "pythia-160m", "pythia-410m"
SEQUENCES, LENGTH = 1, 512
ROUNDS = 5
TOP_K = 64
MIB = 2**20


def settings(kind: DivergenceKind = "forward-kl", top_k: int | None = None) -> LossSettings:
    """The paper's weights and temperature."""
    return LossSettings(0.2, 0.8, 0.9, REAL, kind, top_k)


def naive(hidden: Tensor, head: Head, targets: Tensor, teacher: TeacherStates) -> Tensor:
    """The same loss as it is usually written: all logits of both networks, and autograd."""
    of = settings()
    logits = functional.linear(hidden, head.weight)
    theirs = functional.linear(teacher.hidden, teacher.head.weight)
    divergence = functional.kl_div(
        functional.log_softmax(logits[:, :REAL] / of.temperature, 1),
        functional.log_softmax(theirs[:, :REAL] / of.temperature, 1),
        log_target=True,
        reduction="sum",
    )
    cross_entropy = functional.cross_entropy(logits, targets, reduction="sum")
    return of.alpha * cross_entropy + of.beta * of.temperature**2 * divergence


def _loss_inputs() -> tuple[Tensor, Head, Tensor, TeacherStates]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    hidden = normal(POSITIONS, CHANNELS).requires_grad_()
    weight = normal(VOCABULARY, CHANNELS).requires_grad_()
    targets = torch.randint(REAL, (POSITIONS,), generator=generator)
    teacher = Head(normal(VOCABULARY, TEACHER_CHANNELS), None, None)
    states = TeacherStates(normal(POSITIONS, TEACHER_CHANNELS), teacher)
    return hidden, Head(weight, None, None), targets, states


def _peak(form: str, results: Any) -> None:
    """In a process of its own: MiB that the loss and its backward pass add, and the loss."""
    hidden, head, targets, teacher = _loss_inputs()
    gc.collect()
    before = _largest_resident()
    if form == "naive":
        total = naive(hidden, head, targets, teacher)
    else:
        total = summed_losses(hidden, head, targets, settings(), teacher).total
    total.backward()
    results.put((form, _largest_resident() - before, total.item() / POSITIONS))


def _largest_resident() -> float:
    """MiB. Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_memory() -> dict[str, Any]:
    """Of both forms."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for form in ("naive", "chunked"):
        results = context.Queue()
        process = context.Process(target=_peak, args=(form, results))
        process.start()
        _, mib, loss = results.get()
        process.join()
        found[form] = {"peak_mib": mib, "loss": loss}
    gradients = (POSITIONS + VOCABULARY) * CHANNELS * 4 / MIB
    ratio = found["chunked"]["peak_mib"] / found["naive"]["peak_mib"]
    return found | {"gradients_mib": gradients, "ratio": ratio}


def measure_time() -> list[dict[str, float]]:
    """Seconds of each way in each round, taken in a process that starts as a worker does."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    os.environ.update(KEEP_MEMORY)
    process = context.Process(target=_time, args=(results,))
    process.start()
    rounds = results.get()
    process.join()
    return rounds


def _time(results: Any) -> None:
    torch.manual_seed(0)
    student, teacher = (
        GPT(Config.from_name(name, block_size=LENGTH, padded_vocab_size=VOCABULARY))
        for name in (STUDENT, TEACHER)
    )
    teaching = TeacherNetwork(teacher.requires_grad_(False).eval())
    tokens = torch.randint(REAL, (SEQUENCES, LENGTH))
    kept = teacher_top_k(teaching, tokens, vocabulary=REAL, k=TOP_K)

    def step(of: LossSettings, view: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            Student(student, of)(tokens, view())[0].backward()
            student.zero_grad()

        return run

    @torch.no_grad()
    def bare_forward() -> None:
        hidden, head = teacher_states(teaching, tokens)
        head = cast(head, hidden.dtype)
        for rows in hidden.split(rows_per_chunk(head, len(hidden))):
            logits_of(rows, head)

    def states() -> TeacherStates:
        return teacher_states(teaching, tokens)

    ways = {
        "plain": step(LossSettings(), lambda: None),
        "teacher": bare_forward,
        "forward-kl": step(settings(), states),
        "reverse-kl": step(settings("reverse-kl"), states),
        "symmetric-kl": step(settings("symmetric-kl"), states),
        "jensen-shannon": step(settings("jensen-shannon"), states),
        f"forward-kl, top {TOP_K}": step(settings(top_k=TOP_K), states),
        f"forward-kl, top {TOP_K}, cached": step(settings(top_k=TOP_K), lambda: kept),
    }
    rounds = []
    for number in range(ROUNDS + 1):
        seconds = {}
        for name in list(ways)[:: -1 if number % 2 else 1]:  # no way is always after the same one
            began = time.perf_counter()
            ways[name]()
            seconds[name] = time.perf_counter() - began
        rounds.append(seconds)
    results.put(rounds[1:])  # the first one only warms up


def beyond_the_teacher(seconds: dict[str, float], name: str) -> float:
    """What a way takes beyond the plain step and what it runs of the teacher, per plain step."""
    teacher = 0.0 if name.endswith("cached") else seconds["teacher"]
    return (seconds[name] - seconds["plain"] - teacher) / seconds["plain"]


def row(name: str, rounds: list[dict[str, float]]) -> str:
    """A line of the table: medians, and the range of what is compared within each round."""
    beyond = sorted(beyond_the_teacher(seconds, name) for seconds in rounds)
    median = statistics.median(seconds[name] for seconds in rounds)
    return (
        f"| {name} | {median:.2f} | {statistics.median(beyond):+.1%} | "
        f"{beyond[0]:+.0%} to {beyond[-1]:+.0%} |"
    )


def markdown(result: dict[str, Any]) -> str:
    """The tables, and how they were made."""
    memory, rounds = result["memory"], result["seconds"]
    plain, teacher = (
        statistics.median(seconds[name] for seconds in rounds) for name in ("plain", "teacher")
    )
    ways = [name for name in rounds[0] if name not in ("plain", "teacher")]
    return "\n".join(
        [
            "# Distillation",
            "",
            "## Memory",
            "",
            f"Cross-entropy and forward KL over the full vocabulary of {VOCABULARY}, and the "
            f"gradients to hidden states and head, for {POSITIONS} positions of {CHANNELS} "
            f"channels (teacher {TEACHER_CHANNELS}) in float32. Naive: the logits of both networks "
            "at once, and autograd.",
            "",
            "| | most memory, MiB | loss per token |",
            "| --- | ---: | ---: |",
            f"| naive | {memory['naive']['peak_mib']:.0f} | {memory['naive']['loss']:.6f} |",
            f"| chunked | {memory['chunked']['peak_mib']:.0f} | {memory['chunked']['loss']:.6f} |",
            f"| of the naive form's | {memory['ratio']:.1%} | |",
            "",
            f"{memory['gradients_mib']:.0f} MiB of either are the gradients themselves.",
            "",
            "## Time",
            "",
            f"A plain step of {STUDENT}'s shape (forward and backward, no optimiser) on "
            f"{SEQUENCES} x {LENGTH} tokens in float32 takes {plain:.2f} s, the bare "
            f"forward pass of a teacher of {TEACHER}'s shape, logits included, "
            f"{teacher:.2f} s; medians of {ROUNDS} rounds of all ways, every other one backwards.",
            "",
            "| step | seconds | beyond plain step and teacher of its round, of a plain step | in "
            "each round |",
            "| --- | ---: | ---: | ---: |",
            *(row(name, rounds) for name in ways),
            "",
            sentence(result["machine"]),
            "",
        ]
    )


def main() -> None:
    """Measure, print, and write beside this file."""
    machine = measured_on(("torch", "litgpt"))
    result = {"memory": measure_memory(), "seconds": measure_time(), "machine": machine}
    (HERE / "distillation.json").write_text(json.dumps(result, indent=2) + "\n")
    (HERE / "distillation.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
