"""Any flags and any config files give a config, or are refused with one line."""

import os
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import yaml
from hypothesis import strategies as st

from evo.cli import COMMANDS, main
from evo.errors import UserError
from evo.flags import parse_config
from evo.quantities import parse_count
from tests.evo.data.reading.test_reading import PROGRAMS
from tests.support.properties import examples, holds, result_or_refusal

WORDS = st.sampled_from(
    ["", "0", "-1", "1e400", "nan", "inf", "null", "true", "~", "[", "]", "{", "a: b", "[a, b]",
     "[[[[", "10M", "10Q", "9" * 5000, "0x10", "1_0", "none", "skip", "block", "x" * 300, "/",
     "/dev/null", "é", "\udce9", "\0", "\n", "'", '"', "&a", "*a", "!!python/name:os.system", "%",
     "- a", "--", "-", "=", "@", "2020-01-01", "12:30:45", "[" * 3000, "{" * 3000]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=5,
)


def fields_of(name):
    return sorted(PROGRAMS[name][0].__dataclass_fields__)


def parse(name, arguments):
    config_class, given, positional = PROGRAMS[name]
    tokens = [] if name in ("search", "eval", "prepare") else ["--tokens", "9000"]
    arguments = [*given.split(), *tokens, *arguments]
    parsed = result_or_refusal(
        lambda: parse_config(f"evo {name}", config_class, arguments, positional=positional)
    )
    assert is_dataclass(parsed) or isinstance(parsed, UserError)
    return parsed


def flag(field):
    return f"--{field.replace('_', '-')}"


@examples(25)
@pytest.mark.parametrize("name", PROGRAMS)
def test_any_flags_are_a_config_or_one_line(name, examples):
    flags = st.sampled_from(fields_of(name)).map(flag) | st.sampled_from(
        ["--nope", "--config", "--no-"]
    )
    given = st.lists(st.tuples(flags, WORDS, st.booleans()), min_size=1, max_size=4)

    def check(pairs):
        arguments = []
        for each, value, joined in pairs:
            arguments += [f"{each}={value}"] if joined else [each, value]
        parse(name, arguments)

    holds(check, examples, given)


@examples(25)
@pytest.mark.parametrize("name", PROGRAMS)
def test_any_values_in_a_config_file_are_a_config_or_one_line(name, examples, tmp_path):
    path = tmp_path / "config.yaml"
    names = st.sampled_from(fields_of(name)) | st.text(max_size=5)

    def check(values):
        path.write_text(yaml.safe_dump(values, allow_unicode=True), "utf-8", "surrogatepass")
        parse(name, ["--config", str(path)])

    holds(check, examples, st.dictionaries(names, VALUES, min_size=1, max_size=3))


@examples(60)
def test_any_bytes_as_a_config_file_are_a_config_or_one_line(examples, tmp_path):
    path = tmp_path / "config.yaml"
    pieces = st.sampled_from(
        [b"text: a\n", b"tokens: ", b"10M\n", b"- ", b"{", b"[", b"&a ", b"*a", b": ", b"\t",
         b"\xff", b"\0", b"---\n", b"!!binary ", b"? ", b"| \n", b"'", b'"', b"# ", b"<<: ",
         b"\xef\xbb\xbf", b"\n", b"seed: 1\n", b"text_field: x\n", b"%YAML 9.9\n", b"[" * 1500,
         "\u2028".encode(), b"\r"]
    )  # fmt: skip
    content = st.lists(pieces, max_size=8).map(b"".join) | st.binary(max_size=60)

    def check(written):
        path.write_bytes(written)
        parsed = parse("pretrain", ["--config", str(path)])
        if isinstance(parsed, UserError):
            assert "\n" not in " ".join(str(parsed).split())

    holds(check, examples, content)


@examples(150)
def test_any_text_is_a_count_or_none(examples):
    def check(text):
        try:
            number = parse_count(text)
        except ValueError:
            return
        assert type(number) is int
        assert abs(number) < 2**63

    digits = st.text("0123456789.KMBTkmbt_+- eE", max_size=12)
    holds(check, examples, digits | st.text(max_size=6) | VALUES)


@examples(4)
@pytest.mark.parametrize("command", [name for name in COMMANDS if name in PROGRAMS])
def test_a_command_ends_with_one_line_and_leaves_nothing(
    command, examples, tmp_path, monkeypatch, capsys
):
    """Its checkpoint is nowhere, so that nothing can be right."""
    monkeypatch.chdir(tmp_path)
    _, given, _ = PROGRAMS[command]
    tokens = [] if command in ("search", "eval", "prepare") else ["--tokens", "9000"]
    fields = [field for field in fields_of(command) if field not in ("out", "tasks", "loggers")]

    def check(pairs):
        more = [f"{flag(field)}={value}" for field, value in pairs]
        assert main([command, *given.split(), *tokens, *more]) == 2
        printed = capsys.readouterr()
        (line,) = [line for line in printed.err.splitlines() if line.startswith("evo ")]
        assert line.startswith(f"evo {command}: ")
        assert "Traceback" not in printed.err + printed.out
        assert os.listdir() == []

    holds(check, examples, st.lists(st.tuples(st.sampled_from(fields), WORDS), max_size=2))
    assert not Path("o").exists()
