"""Train-offs of the embedded teacher's subnets on a real Ray, killed and gone on with."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dashboards.axes import WINNER
from evo.cli import main
from evo.commands.select import run as run_command
from evo.embedded import teacher_path
from evo.errors import UserError
from evo.flags import parse_config
from evo.model import checkpoint
from evo.ray_connection import connect
from tests.support import tiny_checkpoints
from tests.support.alone import launch_here
from tests.support.corpora import random_documents, write_jsonl
from tests.support.drivers import kill_driver
from tests.support.images import pixels
from tests.support.searched import searched
from tests.training.test_pretrain import assert_same_run, kill_when_logged, logged
from training.config import PretrainConfig
from training.logs import log
from training.pretrain import pretrain
from training.selection.config import SelectConfig, default_out
from training.selection.scores import FILE as SCORES
from training.selection.select import select

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]

STEPS, BATCH, LENGTH = 40, 4, 17
ENDS = (8, 16)
"""The steps at the ends of the two rounds of four finalists, of 0.4 of the run."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SelectConfig:
    root = tmp_path_factory.mktemp("select")
    found = {"coarse-uniform@25%": 6, "fine-layerwise@25%": 6}
    return SelectConfig(
        run=searched(root / "run", teacher_path(), found),
        text=tiny_checkpoints.text(root / "text.npy"),
        tokens=STEPS * BATCH * LENGTH,
        validation_text=tiny_checkpoints.text(root / "validation.npy", blocks=9, seed=1),
        batch_tokens=BATCH * LENGTH,
        finalists=4,
        share=0.4,
        decay=0.2,
        checkpoint_every=3,
        gpus_per_worker=0,
    )


@pytest.fixture(scope="module")
def undisturbed(config: SelectConfig) -> SelectConfig:
    """One that nothing interrupts, on one worker; finished."""
    return finished(replace(config, workers=1, out=config.run.with_name("undisturbed")))


def finished(config: SelectConfig) -> SelectConfig:
    select(config)
    return config


def out_of(config: SelectConfig) -> Path:
    return config.out or default_out(config.run, "25%")


def summary_of(config: SelectConfig) -> dict[str, Any]:
    """The summary without the names of directories."""
    summary = json.loads((out_of(config) / "summary.json").read_text())
    del summary["continue"], summary["winner"]["model"], summary["winner"]["run"]
    return summary


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("checkpoints/*"))


def continuation(config: SelectConfig) -> PretrainConfig:
    """The settings in the line that goes on with the winner."""
    line = json.loads((out_of(config) / "summary.json").read_text())["continue"]
    return parse_config("evo pretrain", PretrainConfig, shlex.split(line)[2:])


def assert_same_train_off(one: SelectConfig, other: SelectConfig) -> None:
    """The same winner and the same bits: of scores, logs, and the weights that the winner has."""
    assert summary_of(one) == summary_of(other)
    a, b = out_of(one), out_of(other)
    assert (a / SCORES).read_bytes() == (b / SCORES).read_bytes()
    runs = sorted(path.name for path in (a / "runs").iterdir())
    assert runs == sorted(path.name for path in (b / "runs").iterdir())
    for name in runs:
        assert logged(a / "runs" / name) == logged(b / "runs" / name)
    winner = summary_of(one)["winner"]["candidate"]
    for left, right in zip(states(a, winner), states(b, winner), strict=True):
        assert torch.equal(left, right)


def states(out: Path, winner: str) -> list[torch.Tensor]:
    """The tensors of a run's checkpoint, weights and the optimiser's."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    (directory,) = (out / "runs" / winner / "checkpoints").iterdir()
    dcp_to_torch_save(directory, out / "states.pth")
    saved = torch.load(out / "states.pth", weights_only=True)
    found: list[torch.Tensor] = []

    def collect(value: object) -> None:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            for key in sorted(value):
                collect(value[key])

    collect({"model": saved["model"], "optimizer": saved["optimizer"]["state"]})
    assert len(found) > 10
    return found


@pytest.mark.timeout(600)
def test_rounds_halve_by_validation_nll(undisturbed: SelectConfig) -> None:
    out, summary = out_of(undisturbed), summary_of(undisturbed)
    tokens = BATCH * LENGTH
    assert [each["finalists"] for each in summary["rounds"]] == [4, 2]
    assert [each["tokens"] for each in summary["rounds"]] == [end * tokens for end in ENDS]
    chosen_by = f"validation NLL after {ENDS[-1] * tokens:,} tokens of training, extrapolated"
    assert summary["chosen_by"] == chosen_by
    scores = {(step, name): nll for step, name, nll, _ in json.loads((out / SCORES).read_text())}
    standing = sorted(name for step, name in scores if step == ENDS[0])
    ends = {name: scores[ENDS[0], name] for name in standing}
    for each, end in zip(summary["rounds"], ENDS, strict=True):
        if end != ENDS[0]:  # half of its last fall follows
            ends = {name: 1.5 * scores[end, name] - 0.5 * ends[name] for name in standing}
        half = sorted(standing, key=lambda name: (ends[name], name))[: len(standing) // 2]
        assert each["survivors"] == half
        standing = half
    assert summary["winner"]["candidate"] == standing[0] == summary["finalists"][0]["candidate"]
    steps = [log.last_step(out / "runs" / one["candidate"]) for one in summary["finalists"]]
    assert steps == [16, 16, 8, 8]
    assert summary["tokens"] == sum(steps) * tokens
    assert summary["flops"] == sum(
        log.rows(out / "runs" / one["candidate"])[-1]["flops"] for one in summary["finalists"]
    )
    for one in summary["finalists"]:
        assert len(one["nll"]) == ENDS.index(one["tokens"] // tokens) + 1
        assert one["nll"][-1] < one["nll_before"]
        left = checkpoints(out / "runs" / one["candidate"])
        assert left == (["step-16"] if one is summary["finalists"][0] else [])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_worker_of_two_changes_nothing(
    config: SelectConfig, undisturbed: SelectConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    connect()
    second = summary_of(undisturbed)["finalists"][1]["candidate"]
    run = out_of(config) / "runs" / second
    killer = kill_when_logged(run, ENDS[0] + 2, "ray::train_unit")
    run_command(replace(config, workers=2))
    assert not killer.is_alive()
    assert_same_train_off(config, undisturbed)
    winner = summary_of(config)["winner"]["candidate"]
    printed = capsys.readouterr().out
    assert winner in printed
    assert json.loads((out_of(config) / "summary.json").read_text())["continue"] in printed
    assert pixels(out_of(config) / "selection.png", WINNER) > 200

    before = (out_of(config) / SCORES).stat().st_mtime_ns
    run_command(config)
    assert "is finished" in capsys.readouterr().out
    assert (out_of(config) / SCORES).stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"share was 0\.4, now it is 0\.3"):
        select(replace(config, share=0.3))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pretraining_goes_on_with_the_winner_as_if_never_stopped(
    undisturbed: SelectConfig, tmp_path: Path
) -> None:
    shutil.copytree(out_of(undisturbed), tmp_path / "moved")
    planned = continuation(undisturbed)
    planned = replace(planned, out=tmp_path / "moved" / "runs" / planned.out.name)
    before = logged(planned.out)
    summary = pretrain(planned)
    assert summary["steps"] == STEPS
    assert logged(planned.out)[: len(before)] == before
    alone = replace(planned, out=tmp_path / "alone")
    pretrain(alone, launch=launch_here)
    assert_same_run(planned.out, alone.out)
    assert checkpoint.load(planned.out / "model").widths == checkpoint.load(planned.model).widths


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_distilled_on_text_that_is_read_as_a_stream(config: SelectConfig, tmp_path: Path) -> None:
    connect()
    (tmp_path / "streamed").mkdir()
    write_jsonl(tmp_path / "streamed" / "train.jsonl", random_documents(400, seed=0, most=30))
    streamed = replace(
        config,
        out=tmp_path / "out",
        text=f"hf:{tmp_path / 'streamed'}:train",
        sequence_length=LENGTH,
        shuffle_tokens=7 * LENGTH,
        teacher=teacher_path(),
        finalists=2,
    )
    select(streamed)
    planned = continuation(streamed)
    assert len(log.rows(planned.out)) == 17
    alone = replace(planned, out=tmp_path / "alone")
    for each in (planned, alone):
        pretrain(each, launch=launch_here)
    assert_same_run(planned.out, alone.out)
    assert "divergence" in log.rows(planned.out)[-1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_finalists_that_workers_train_together(config: SelectConfig, tmp_path: Path) -> None:
    """On Ray Train, one after the other; they come to what they come to on a worker each."""
    connect()
    alone = finished(replace(config, out=tmp_path / "alone", finalists=2))
    together = finished(
        replace(config, out=tmp_path / "together", finalists=2, workers_per_finalist=2)
    )
    one, other = summary_of(alone), summary_of(together)
    assert other["winner"]["candidate"] == one["winner"]["candidate"]
    for each, same in zip(one["finalists"], other["finalists"], strict=True):
        assert same["nll"] == pytest.approx(each["nll"], rel=1e-5)
        assert same["flops"] == each["flops"]
    assert continuation(together).workers == 2
    assert checkpoints(continuation(together).out) == ["ray", "step-16"]
    # What has a score is left alone.
    before = log.rows(continuation(together).out)
    (tmp_path / "together" / "summary.json").unlink()
    select(replace(config, out=tmp_path / "together", finalists=2, workers_per_finalist=2))
    assert summary_of(together) == other
    assert log.rows(continuation(together).out) == before


@pytest.mark.slow
def test_the_best_shape_of_random_weights(config: SelectConfig, tmp_path: Path) -> None:
    connect()
    shapes = replace(config, out=tmp_path / "out", init="random", finalists=2)
    select(shapes)
    uniform = math.log(checkpoint.load(teacher_path()).vocabulary)
    for one in summary_of(shapes)["finalists"]:
        assert one["nll_before"] == pytest.approx(uniform, rel=0.05)
    assert continuation(shapes).init == "random"


@pytest.mark.slow
def test_all_finalists_diverge(config: SelectConfig, tmp_path: Path) -> None:
    connect()
    wild = replace(
        config, out=tmp_path / "out", learning_rate=1e30, gradient_clip=1e30, finalists=2
    )
    with pytest.raises(UserError, match=r"no finalist is left at step 16; .*: the loss is nan"):
        select(wild)
    assert not (tmp_path / "out" / "summary.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": Path("nowhere")}, "nowhere is no run"),
        ({"bin": "50%"}, "has no bin '50%': --bin is one of 25%"),
        ({"share": 0.9}, "--share 0.9 ends at step 36 of 40, and from step 32 on"),
        ({"share": 0.03}, "1 steps for 2 rounds"),
        ({"tokens": 10}, "less than one sequence"),
        ({"workers_per_finalist": 7}, "give fewer --workers-per-finalist"),
        ({"text": "nowhere.txt"}, "nowhere.txt"),
        ({"teacher": Path("nowhere")}, "nowhere is no directory"),
    ],
)
def test_bad_input_leaves_nothing_behind(
    config: SelectConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        select(replace(config, **{"out": tmp_path / "out"} | changes))
    assert not (tmp_path / "out").exists()


def test_another_teacher_in_the_place_of_the_searched_one(
    config: SelectConfig, tmp_path: Path
) -> None:
    other = tiny_checkpoints.neox(tmp_path / "teacher")
    run = searched(tmp_path / "run", other, {"coarse-uniform@25%": 3})
    shutil.rmtree(other)
    tiny_checkpoints.neox(other, seed=1)
    with pytest.raises(UserError, match=r"is not the one that .*run searched"):
        select(replace(config, run=run))


def test_the_command_says_what_is_wrong_in_one_line(
    config: SelectConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--text", str(config.text), "--tokens", "2720"]
    assert main(["select", str(config.run), *given]) == 2
    assert capsys.readouterr().err == (
        "evo select: a train-off compares losses on other text: give --validation-text\n"
    )


@pytest.fixture(scope="module")
def eight(config: SelectConfig) -> SelectConfig:
    """One of eight finalists that nothing interrupts; finished."""
    out = config.run.with_name("eight")
    return finished(replace(config, finalists=8, workers=2, out=out))


def units_done(config: SelectConfig) -> int:
    path = out_of(config) / SCORES
    return len(json.loads(path.read_text())) if path.is_file() else 0


def steps_done(config: SelectConfig) -> int:
    return sum(max(0, log.last_step(run)) for run in (out_of(config) / "runs").glob("*"))


MOMENTS: list[Callable[[SelectConfig], bool]] = [
    lambda config: (out_of(config) / "settings.yaml").is_file(),
    lambda config: len(list((out_of(config) / "finalists").glob("*"))) >= 3,
    lambda config: steps_done(config) >= 10,
    lambda config: units_done(config) >= 9,
    lambda config: steps_done(config) >= 60,
]
"""When a driver is killed: at the start, while it cuts finalists out, in each of the rounds.

All eight have 4 steps at the end of the first round, four have 4 more in the second, which makes
48, and two have 8 more in the third.
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_five_moments(
    config: SelectConfig, eight: SelectConfig, tmp_path: Path, workers: int
) -> None:
    connect()
    killed = replace(config, finalists=8, workers=workers, out=tmp_path / "killed")
    for moment in MOMENTS:
        kill_driver(select, killed, when=lambda moment=moment: moment(killed))
        assert not (tmp_path / "killed" / "summary.json").exists()
    select(killed)
    assert_same_train_off(killed, eight)
