"""A config as a line for a shell, such as the one that goes on with a train-off's winner."""

from __future__ import annotations

import shlex
from pathlib import Path

from evo.flags import command_line, parse_config
from training.config import PretrainConfig


def parsed(line: str) -> PretrainConfig:
    program, name, *arguments = shlex.split(line)
    assert (program, name) == ("evo", "pretrain")
    return parse_config("evo pretrain", PretrainConfig, arguments)


def test_it_says_all_that_differs_from_the_defaults() -> None:
    config = PretrainConfig(
        model=Path("a model"),
        text=["hf:some/thing:train", "it's here.txt"],
        text_weights=[3.0, 1.0],
        tokens=1000,
        out=Path("runs/25%"),
        schedule="wsd",
        learning_rate=3e-4,
        top_k=None,
        teacher=Path("teacher"),
        compile=True,
        threads=1,
        gpus_per_worker=0,
        loggers=["csv", "tensorboard"],
    )
    assert parsed(command_line("pretrain", config)) == config


def test_defaults_are_left_out() -> None:
    config = PretrainConfig(model=Path("m"), text="t", tokens=5, out=Path("o"))
    assert command_line("pretrain", config) == "evo pretrain --text t --tokens 5 --model m --out o"
