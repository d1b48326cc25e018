"""What a train-off came to: `summary.json`, and the table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp, inf, log, nan
from typing import Any

from rich.table import Table

from evo.flags import command_line
from training.logs.log import rows
from training.selection.finalists import Finalist
from training.selection.rounds import Score
from training.selection.train_off import TrainOff
from training.setup.training_run import TrainingRun


@dataclass(frozen=True)
class Ended:
    """A round that has ended.

    Attributes:
        step: steps that its finalists have had.
        scores: the scores of its finalists.
        ranking: its finalists, the best first.
        survivors: those who go on, the best first.
    """

    step: int
    scores: dict[str, Score]
    ranking: list[str]
    survivors: list[str]


def summary_of(
    train_off: TrainOff, runs: Mapping[str, TrainingRun], rounds: Sequence[Ended]
) -> dict[str, Any]:
    """The content of `summary.json`.

    It has `chosen_by`, in words; the `winner`; the line that goes on with it (`continue`); the
    `rounds`; the `finalists`, the winner first and then by how far they came, each with its NLL
    before training and after each round (nats per target) and its curve of validation perplexity;
    and `tokens` and `flops` of all trainings.

    Args:
        train_off: the train-off.
        runs: the finalists' runs.
        rounds: the rounds, all of them ended.
    """
    per_step = train_off.whole.settings.tokens_per_step
    finalists = {one.candidate: one for one in train_off.finalists}
    order: list[str] = []
    for each in reversed(rounds):
        order += [name for name in each.ranking if name not in order]
    shown = [_finalist(train_off, finalists[name], runs[name], rounds) for name in order]
    winner, pretraining = shown[0], train_off.pretraining(finalists[order[0]])
    described = {name: winner[name] for name in ("candidate", "search", "layers", "params")}
    return {
        "run": str(train_off.config.run.absolute()),
        "bin": train_off.bin,
        "chosen_by": f"validation NLL after {rounds[-1].step * per_step:,} tokens of training"
        + (", extrapolated" if len(rounds) > 1 else ""),
        "validation_text": train_off.config.validation_text,
        "winner": {
            **described,
            "nll": winner["nll"][-1],
            "perplexity": _exp(winner["nll"][-1]),
            "model": str(pretraining.model),
            "run": str(pretraining.out),
        },
        "continue": command_line("pretrain", pretraining),
        "rounds": [
            {
                "finalists": len(each.scores),
                "step": each.step,
                "tokens": each.step * per_step,
                "survivors": each.survivors,
            }
            for each in rounds
        ],
        "finalists": shown,
        "tokens": sum(one["tokens"] for one in shown),
        "flops": sum(one["flops"] for one in shown),
        "winner_flops": winner["flops"],
        "planned_tokens": train_off.config.tokens,
        "planned_flops": runs[order[0]].settings.flops,
    }


def _finalist(
    train_off: TrainOff, finalist: Finalist, run: TrainingRun, rounds: Sequence[Ended]
) -> dict[str, Any]:
    logged = rows(run.directory)
    curve = {
        row["tokens"]: row["validation_perplexity"]
        for row in logged
        if "validation_perplexity" in row
    }
    before, nll, reason = curve.get(0, nan), [], None
    for each in rounds:
        if (score := each.scores.get(finalist.candidate)) is None:
            break
        reason = score.reason
        nll.append(None if score.nll is None else score.nll / train_off.targets)
        if nll[-1] is not None:
            curve[each.step * run.settings.tokens_per_step] = _exp(nll[-1])
    return {
        **asdict(finalist),
        "nll_before": log(before) if before < inf else None,
        "nll": nll,
        "reason": reason,
        "tokens": logged[-1]["tokens"] if logged else 0,
        "flops": logged[-1]["flops"] if logged else 0,
        "curve_tokens": sorted(curve),
        "curve_perplexity": [curve[tokens] for tokens in sorted(curve)],
    }


def table(summary: Mapping[str, Any]) -> Table:
    """A row per finalist, the winner first: its perplexity before training and after each round.

    Args:
        summary: content of `summary.json`.
    """
    shown = Table(title=f"{summary['bin']}: chosen by {summary['chosen_by']}")
    for name in ("finalist", "search"):
        shown.add_column(name)
    for name in ("layers", "parameters", "perplexity\nbefore"):
        shown.add_column(name, justify="right")
    for each in summary["rounds"]:
        shown.add_column(f"{each['tokens']:,}\ntokens", justify="right")
    shown.add_column("")
    for number, one in enumerate(summary["finalists"]):
        nll = [*one["nll"], *[None] * (len(summary["rounds"]) - len(one["nll"]))]
        shown.add_row(
            one["candidate"],
            one["search"].partition("@")[0],
            str(one["layers"]),
            f"{one['params']:,}",
            *(_perplexity(each) for each in [one["nll_before"], *nll]),
            one["reason"] or ("" if number else "winner"),
            style=None if number else "bold",
        )
    besides = summary["flops"] - summary["winner_flops"]
    shown.caption = (
        f"Perplexity on {summary['validation_text']}. The others' training took {besides:.3g} "
        f"FLOPs, {besides / summary['planned_flops']:.0%} of the planned run; the winner's is the "
        "beginning of that."
    )
    return shown


def _perplexity(nll: float | None) -> str:
    return "" if nll is None else f"{_exp(nll):,.2f}"


def _exp(nll: float) -> float:
    return exp(nll) if nll < 700 else inf
