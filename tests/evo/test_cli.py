"""Flags, configs and messages. What the commands then do is tested where they are."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from evo.cli import COMMANDS, main
from evo.embedded import teacher_path
from evo.errors import UserError
from evo.flags import parse_config

SEARCH = ["search", "--teacher", "t", "--text", "stdlib:train", "--bins", "25%", "--out", "run"]


@dataclass(frozen=True)
class Baking:
    """Bake.

    Attributes:
        recipes: what to bake.
        out: where to put it.
        flours: of what.
        heat: in degrees.
        mode: how.
        oven_share: of the oven.
        helpers: how many.
        glaze: whether to.
    """

    recipes: list[Path]
    out: Path
    flours: list[str] = field(default_factory=lambda: ["wheat"])
    heat: int = 180
    mode: Literal["fan", "grill"] = "fan"
    oven_share: float = 1.0
    helpers: int | None = None
    glaze: bool = False

    def __post_init__(self) -> None:
        if self.heat < 1:
            raise UserError(f"{self.heat} degrees bake nothing: give at least 1")


def bake(*arguments: str) -> Baking:
    return parse_config("evo bake", Baking, arguments, positional=("recipes",))


def test_defaults():
    assert bake("a", "--out", "o") == Baking([Path("a")], Path("o"))


@dataclass(frozen=True)
class Resting:
    """Rest.

    Attributes:
        minutes: how long.
    """

    minutes: int = 5


def test_no_arguments_at_all():
    assert parse_config("evo rest", Resting, []) == Resting()


@dataclass(frozen=True, kw_only=True)
class Frying(Resting):
    """Fry.

    Attributes:
        pan: in what.
    """

    pan: Path


def test_inherited_fields_are_described(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse_config("evo fry", Frying, ["--help"])
    shown = capsys.readouterr().out
    assert "in what." in shown
    assert "how long." in shown


def test_every_kind_of_value():
    config = bake(
        "a", "b", "--out", "o", "--flours", "rye", "25%", "--heat", "200", "--mode=grill",
        "--oven-share", "0.5", "--helpers", "3", "--glaze", "true",
    )  # fmt: skip
    assert config == Baking(
        [Path("a"), Path("b")], Path("o"), ["rye", "25%"], 200, "grill", 0.5, 3, True
    )
    assert isinstance(config.out, Path)


@pytest.mark.parametrize(
    ("given", "glaze"),
    [
        (["--glaze"], True),
        (["--glaze", "--heat", "200"], True),
        (["--no-glaze"], False),
        (["--glaze", "--no-glaze"], False),
        (["--no-glaze", "--glaze=true"], True),
        (["--glaze", "false", "--heat", "200"], False),
        (["--glaze", "no"], False),
        (["--glaze", "YES"], True),
    ],
)
def test_switches(given, glaze):
    assert bake("a", "--out", "o", *given).glaze is glaze
    assert bake("a", *given, "--out", "o").glaze is glaze


def test_a_switch_leaves_what_is_not_its_own():
    assert bake("--glaze", "a", "--out", "o") == Baking([Path("a")], Path("o"), glaze=True)
    assert bake("--no-glaze", "a", "b", "--out", "o").recipes == [Path("a"), Path("b")]


def test_only_switches_have_a_no():
    with pytest.raises(UserError, match="--no-heat"):
        bake("a", "--out", "o", "--no-heat")


@pytest.mark.parametrize(
    "given",
    [
        ["--flours", "rye", "400", "1-2"],
        ["--flours=rye", "400", "1-2"],
        ["--flours", '["rye", "400", "1-2"]'],
        ["--flours=[rye, '400', 1-2]"],
    ],
)
def test_several_values(given):
    assert bake("a", *given, "--out", "o").flours == ["rye", "400", "1-2"]
    assert bake("a", "--out", "o", *given).flours == ["rye", "400", "1-2"]


def test_one_value_of_several():
    assert bake("a", "--flours", "rye", "--out", "o").flours == ["rye"]
    assert bake("a", "--flours=rye", "--out", "o").flours == ["rye"]


def test_a_value_may_begin_like_a_list():
    assert bake("a", "--flours", "[rw]*", "--out", "o").flours == ["[rw]*"]
    assert bake("a", "--out", "o", "--flours=[rw]*").flours == ["[rw]*"]
    assert bake("a", "--flours", "[rye]", "--out", "o").flours == ["rye"]


def test_a_value_may_be_called_like_a_flag():
    config = bake("recipes", "flours", "--out", "flours", "--flours", "recipes", "out")
    assert config == Baking([Path("recipes"), Path("flours")], Path("flours"), ["recipes", "out"])


def test_config_file(tmp_path):
    path = tmp_path / "bake.yaml"
    path.write_text(
        "recipes: [a, b]\nout: o\nflours: [rye, 400M]\noven_share: 0.25\nhelpers: null\n"
    )
    fresh = Baking([Path("a"), Path("b")], Path("o"), ["rye", "400M"], oven_share=0.25)
    assert bake("--config", str(path)) == fresh
    assert bake("--config", str(path), "--oven-share", "1").oven_share == 1
    assert bake("--oven-share", "1", "--flours", "oat", f"--config={path}").flours == ["oat"]
    assert bake("--oven-share", "1", "--config", str(path)).oven_share == 1
    assert bake("c", "--config", str(path)).recipes == [Path("c")]


def test_config_files_that_give_no_values(tmp_path):
    """The file is named, and where in it something is wrong."""
    path = tmp_path / "bake.yaml"
    for content, message in (
        ("out: caf\xe9\n".encode("latin-1"), "byte 9: this is not UTF-8"),
        ("out: o\n".encode("utf-16"), "byte 1: this is not UTF-8"),
        (b"out: a\0b\n", "#x0000"),
        (b"out: " + b"[" * 10_000, "nested too deep"),
        (b"heat: " + b"9" * 5000, "4300 digits"),
        (b"", "give a flag's name and its value"),
        (b"1: 2\n", "1 is no name of a flag"),
        (b"config: other.yaml\n", "'config' is no name of a flag"),
        (b"flours: &a [*a]\n", "flours is neither one value nor a list"),
        (b"out: {a: b}\n", "out is neither one value nor a list"),
        (b"out: !!binary aGVsbG8=\n", "out is neither one value"),
        (b"out: !!python/object:os.system x\n", "line 1 .*: this is no YAML"),
        (b"out: a\n---\nout: b\n", "line 2 .*: this is no YAML"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            bake("a", "--out", "o", "--config", str(path))
        assert str(caught.value).startswith(f"--config {path}")
        assert "\n" not in str(caught.value)


def test_null_is_only_what_may_be_none(tmp_path):
    path = tmp_path / "bake.yaml"
    path.write_text("helpers: null\n")
    assert bake("a", "--out", "o", "--config", str(path)).helpers is None
    for name, wanted in (("heat", "a whole number"), ("flours", "values"), ("mode", "one of fan")):
        path.write_text(f"{name}: null\n")
        with pytest.raises(UserError, match=f"--{name}: give {wanted}"):
            bake("a", "--out", "o", "--config", str(path))


def test_a_null_character_is_in_no_path(tmp_path):
    path = tmp_path / "bake.yaml"
    for content in ('out: "a\\0b"\n', 'flours: ["a", "\\0"]\n'):
        path.write_text(f"recipes: [a]\nout: o\n{content}" if "out" not in content else content)
        with pytest.raises(UserError, match="a null character is part of no name"):
            bake("a", "--config", str(path))


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_config_file_with_a_byte_order_mark(mark, tmp_path):
    (tmp_path / "bake.yaml").write_text(f"{mark}out: café\n", encoding="utf-8")
    assert bake("a", "--config", str(tmp_path / "bake.yaml")).out == Path("café")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("heat: hot", "--heat: give a whole number"),
        ("mode: boil", "--mode: give one of fan, grill"),
        ("oven-share: 1", "a config file spells oven-share as oven_share"),
        ("sugar: 1", "sugar"),
        ("heat: [1", "line 2 (.*): this is no YAML"),
        ("- 1", "give a flag.s name and its value on each line"),
        (None, "does not exist"),
    ],
)
def test_config_files_that_cannot_be(tmp_path, content, message):
    path = tmp_path / "bake.yaml"
    if content is not None:
        path.write_text(f"{content}\n")
    with pytest.raises(UserError, match=message):
        bake("a", "--out", "o", "--config", str(path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "--out is missing"),
        (["--out", "o"], "recipes"),
        (["a", "--out", "o", "--nope"], "--nope"),
        (["a", "--out", "o", "--hea", "3"], "--hea"),
        (["a", "--out", "o", "--heat", "hot"], "--heat: give a whole number"),
        (["a", "--out", "o", "--heat", "1.5"], "--heat: give a whole number"),
        (["a", "--out", "o", "--helpers", "x"], "--helpers: give a whole number"),
        (["a", "--out", "o", "--oven-share", "x"], "--oven-share: give a number"),
        (["a", "--out", "o", "--mode", "boil"], "--mode: give one of fan, grill"),
        (["a", "--out", "o", "--glaze=x"], "--glaze: give true or false"),
        (["a", "--out", "o", "--glaze", "null"], "--glaze: give true or false"),
        (["a", "--out", "o", "--glaze", "x"], "x"),
        (["--out", "o", "--flours", "rye", "a"], "recipes is missing: it stands before flags that"),
        (["a", "--out"], "--out"),
    ],
)
def test_flags_that_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        bake(*arguments)
    assert "`evo bake --help` lists the flags" in str(caught.value)


def test_the_config_refuses_what_makes_no_sense():
    with pytest.raises(UserError, match=r"^0 degrees bake nothing: give at least 1$"):
        bake("a", "--out", "o", "--heat", "0")


def test_help_of_flags(capsys):
    with pytest.raises(SystemExit) as caught:
        bake("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "Bake." in shown
    for words in ("evo bake", "recipes", "--oven-share", "of the oven", "default: 180", "--config"):
        assert words in shown
    assert "oven_share" not in shown


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_overview(arguments, capsys):
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"evo {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: evo {name}")
    assert "(required" in shown or name in ("quickstart", "submit", "jobs")


def test_unknown_command(capsys):
    assert main(["serach"]) == 2
    assert "unknown command 'serach': it is one of quickstart, import, search" in one_line(capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--nope", "1"], "--nope"),
        (["--population", "0"], "a population of 0 cannot evolve: give at least 1"),
        (["--population", "many"], "--population: give a whole number"),
        (["--generations", "-1"], "-1 generations cannot be"),
        (["--patience", "0"], "a patience of 0"),
        (["--elites", "0"], "0 elites have no offspring"),
        (["--mutation-rate", "0.9"], "are no shares"),
        (["--spaces", "coarse"], "unknown space 'coarse': the spaces are coarse-uniform, "),
        (["--spaces", "coarse-uniform", "coarse-uniform"], "each once"),
        (["--spaces"], "--spaces"),
        (["--bins"], "--bins"),
        (["--order", "best"], "--order: give one of index, magnitude, activation"),
        (["--algorithm", "magic"], "--algorithm: give one of evolution, random, local"),
        (["--in-bin", "maybe"], "--in-bin: give one of fit, reject"),
        (["--dtype", "int8"], "--dtype: give one of float32, bfloat16"),
        (["--seed", "-1"], "a seed of -1 cannot be"),
        (["--shard-tokens", "0"], "shards of 0 tokens cannot be"),
        (["--micro-batch", "0"], "give at least 1"),
        (["--threads", "0"], "give at least 1"),
        (["--workers", "0"], "workers"),
        (["--gpus-per-worker", "-1"], "GPU"),
        ([], "t is no directory: name a checkpoint directory"),
    ],
)
def test_search_refuses(changes, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*SEARCH, *changes]) == 2
    shown = one_line(capsys)
    assert shown.startswith("evo search: ")
    assert message in shown
    assert list(tmp_path.iterdir()) == []


def test_search_lists_what_is_missing(capsys):
    assert main(["search", "--teacher", "t"]) == 2
    assert " is missing; `evo search --help`" in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "nowhere", "--out", "o"], "nowhere is no run: it has no settings.yaml"),
        (["extract", "nowhere"], "--out is missing"),
        (["extract", "--out", "o"], "run is missing"),
        (["eval", "nowhere", "--text", "stdlib:train"], "nowhere is no directory"),
        (["eval", "--tasks", "a", "nowhere"],
         "model is missing: it stands before flags that take several values, here --tasks; "),
        (["eval", "--text", "a"], "model is missing; "),
        (["export", "--native", "nowhere", "--out", "o"], "nowhere is no directory"),
        (["import", "nowhere/at/all", "--out", "o"], "nowhere/at/all"),
        (["import", "nowhere", "--out", "o", "--dtype", "int8"], "--dtype: give one of keep, "),
        (["report", "nowhere"], "nowhere"),
        (["compare", "nowhere", "else"], "nowhere"),
        (["pretrain", "--model", "no", "--text", "x", "--tokens", "0", "--out", "o"], "tokens"),
        (["pretrain", "--model", "no", "--text", "x", "--tokens", "9", "--out", "o"], "no is no "),
        (["prepare", "--teacher=t", "--text", "x", "--tokens", "9", "--out", "o", "--top-k", "0"],
         "evo prepare: --top-k 0"),
        (["pretrain", "--loggers", "csv", "tb"], "--loggers: give some of tensorboard, wandb, csv"),
    ],
)  # fmt: skip
def test_other_commands_refuse(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    shown = one_line(capsys)
    assert shown.startswith(f"evo {arguments[0]}: ")
    assert message in shown
    assert list(tmp_path.iterdir()) == []


def test_messages_are_one_line_whatever_is_in_them(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*SEARCH, "--spaces", "two\nlines"]) == 2
    one_line(capsys)


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "--teacher", LONG, "--text", "stdlib:train", "--bins", "25%", "--out", "o"],
        ["search", "--teacher", "TEACHER", "--text", LONG, "--bins", "25%", "--out", "o"],
        ["search", "--teacher", "TEACHER", "--text", "stdlib:train", "--bins", "9%", "--out", LONG],
        ["search", "--config", LONG],
        ["pretrain", "--model", LONG, "--text", "stdlib:train", "--tokens", "9000", "--out", "o"],
        ["pretrain", "--model", "TEACHER", "--text", LONG, "--tokens", "9000", "--out", "o"],
        ["pretrain", "--model", "TEACHER", "--text", "a", "--tokens", "9000", "--out", LONG],
        ["eval", LONG, "--text", "stdlib:validation"],
        ["eval", "TEACHER", "--text", LONG],
        ["export", LONG, "--out", "o"],
        ["export", "TEACHER", "--out", LONG],
        ["report", LONG],
        ["compare", LONG, LONG],
        ["extract", LONG, "--search", "a", "--candidate", "b", "--out", "o"],
        ["import", LONG, "--out", "o"],
        ["prepare", "--text", LONG, "--tokenizer", "TEACHER", "--out", "o"],
        ["prepare", "--text", "stdlib:validation", "--tokenizer", LONG, "--out", "o"],
        ["quickstart", "--out", LONG],
    ],
    ids=lambda arguments: "-".join(arguments).replace(LONG, "LONG"),
)
def test_a_path_that_cannot_be_looked_at_is_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(teacher_path()) if one == "TEACHER" else one for one in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"evo {arguments[0]}: ")
    assert LONG in line
    assert list(tmp_path.iterdir()) == []
