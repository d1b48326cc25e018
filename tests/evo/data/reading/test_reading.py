"""Fields, and lines that cannot be read, in every kind of file."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evo.commands.eval import EvalConfig
from evo.commands.search.config import SearchConfig
from evo.data.chunks import chunks_of
from evo.data.config import PrepareConfig
from evo.data.reading import PLAIN, Reading, Skipped
from evo.data.sources import documents, parts
from evo.data.token_blocks import load_text
from evo.data.tokenise_chunk import read_record, tokenise_chunk
from evo.errors import UserError
from evo.flags import parse_config
from evo.model.tokenizer import Tokenizer
from tests.support.bpe import write_tokenizer
from training.config import CacheLogitsConfig, PretrainConfig
from training.data.stream import BlockStream, parts_of
from training.selection.config import SelectConfig
from training.sweep.config import SweepConfig

SKIP = Reading(on_bad_line="skip")
BODY = Reading(text_field="body")
TEXTS = ["the first document", "and a second one", "a third"]
BAD_LINES = [
    b"{",
    b'{"other": 1}',
    b'{"text": 3}',
    b"[]",
    b"3",
    b"\xff",
    b"null",
    b"[" * 10_000,
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    b"1" * 5000,
    b'{"text": "one"} {"text": "two"}',
    b'{"text": "' + b"\xc3" + b'"}',
    b"\0" * 100,
]

PROGRAMS = {
    "search": (SearchConfig, "--teacher t --text a --bins 25% --out o", ()),
    "select": (SelectConfig, "run --text a --validation-text v", ("run",)),
    "eval": (EvalConfig, "model --text a", ("model",)),
    "prepare": (PrepareConfig, "--text a --tokenizer t --out o", ()),
    "pretrain": (PretrainConfig, "--model m --text a --out o", ()),
    "cache-logits": (CacheLogitsConfig, "--teacher t --text a --out o", ()),
    "sweep": (SweepConfig, "--model m --text a --validation-text v --out o", ()),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def write_lines(path, texts, field="text", bad=()):
    """Good lines, with a bad one before each of them as long as there are some."""
    lines, bad = [], list(bad)
    for text in texts:
        lines += [*bad[:1], json.dumps({"id": 1, field: text}).encode()]
        bad = bad[1:]
    content = b"\n".join(lines + bad) + b"\n"
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def invalid_strings(values):
    """An array of strings whose bytes may be anything."""
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_command_that_takes_a_text_takes_the_settings_of_reading(name, tmp_path):
    config_class, given, positional = PROGRAMS[name]
    tokens = name not in ("search", "eval", "prepare")
    arguments = given.split() + (["--tokens", "10B"] if tokens else [])
    plain = parse_config(f"evo {name}", config_class, arguments, positional=positional)
    assert plain.reading == PLAIN
    if tokens:
        assert plain.tokens == 10**10
    (tmp_path / "c.yaml").write_text("text_field: body\non_bad_line: skip\nbos: block\n")
    flags = ["--text-field", "body", "--on-bad-line", "skip", "--bos", "block"]
    for more in (flags, ["--config", str(tmp_path / "c.yaml")]):
        config = parse_config(f"evo {name}", config_class, arguments + more, positional=positional)
        assert config.reading == Reading(text_field="body", on_bad_line="skip", bos="block")
    with pytest.raises(UserError, match="--text-field '' names no field"):
        replace(plain, text_field="")


@pytest.mark.parametrize(
    ("config_class", "arguments", "field"),
    [
        (SearchConfig, "--teacher t --text a --bins 25% --out o", "max_tokens"),
        (SearchConfig, "--teacher t --text a --bins 25% --out o", "shard_tokens"),
        (EvalConfig, "--model m --text a", "max_tokens"),
        (PretrainConfig, "--model m --text a --out o --tokens 9", "batch_tokens"),
        (PretrainConfig, "--model m --text a --out o --tokens 9", "validation_tokens"),
        (PretrainConfig, "--model m --text a --out o --tokens 9", "shuffle_tokens"),
    ],
)
def test_numbers_of_tokens_have_suffixes(config_class, arguments, field, tmp_path):
    flag = f"--{field.replace('_', '-')}"
    (tmp_path / "c.yaml").write_text(f"{field}: 2.5M\n")
    for more in ([flag, "2.5M"], [f"{flag}=2_500_000"], ["--config", str(tmp_path / "c.yaml")]):
        config = parse_config("evo", config_class, arguments.split() + more)
        assert getattr(config, field) == 2_500_000
        assert type(getattr(config, field)) is int
    with pytest.raises(UserError, match=f"{flag}: give a whole number, such as 1500000 or 1.5M"):
        parse_config("evo", config_class, [*arguments.split(), flag, "2.5G"])


def test_settings_of_reading_are_of_a_text_not_of_tasks():
    with pytest.raises(UserError, match="--on-bad-line is of use with --text, not with --tasks"):
        EvalConfig("model", tasks=["arc_easy"], on_bad_line="skip")


def test_another_field_gives_the_same_documents(tmp_path):
    write_lines(tmp_path / "a.jsonl", TEXTS, "body")
    write_lines(tmp_path / "b.jsonl.gz", TEXTS, "body")
    pq.write_table(pa.table({"text": ["no"] * 3, "body": TEXTS}), tmp_path / "c.parquet")
    (tmp_path / "d").mkdir()
    write_lines(tmp_path / "d" / "train.jsonl", TEXTS, "body")
    for source in ("a.jsonl", "b.jsonl.gz", "c.parquet", "d"):
        assert list(documents(str(tmp_path / source), BODY)) == TEXTS
    assert list(documents(f"hf:{tmp_path / 'd'}:train", BODY)) == TEXTS
    with pytest.raises(UserError, match="line 1: no JSON object with a field `text`"):
        list(documents(str(tmp_path / "a.jsonl")))
    with pytest.raises(UserError, match="no column `titre`, but"):
        list(documents(str(tmp_path / "c.parquet"), Reading(text_field="titre")))
    with pytest.raises(UserError, match="no column 'titre', but"):
        list(documents(f"hf:{tmp_path / 'd'}:train", Reading(text_field="titre")))


def test_a_column_with_a_dot_in_its_name(tmp_path):
    pq.write_table(pa.table({"a.b": TEXTS, "a": ["no"] * 3}), tmp_path / "a.parquet")
    assert list(documents(str(tmp_path / "a.parquet"), Reading(text_field="a.b"))) == TEXTS


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_every_kind_of_string_column(kind, tmp_path):
    column = pa.array([*TEXTS, None]).cast(kind)
    for each in (column, column.dictionary_encode() if kind != pa.string_view() else column):
        pq.write_table(pa.table({"text": each}), tmp_path / "a.parquet")
        assert list(documents(str(tmp_path / "a.parquet"))) == [*TEXTS, ""]


def test_a_column_that_holds_no_strings(tmp_path):
    for values in ([1, 2], [b"a"], [["a"]], [{"a": "b"}], [1.5]):
        pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
        for reading in (PLAIN, SKIP):
            with pytest.raises(UserError, match=r"column `text`: a text is .*, not a string"):
                list(documents(str(tmp_path / "a.parquet"), reading))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("bad", BAD_LINES, ids=lambda line: repr(line[:20]))
def test_a_bad_line_is_one_line_or_left_out(name, bad, tmp_path, caplog):
    source = str(write_lines(tmp_path / name, TEXTS, bad=[bad]))
    with pytest.raises(UserError, match="line 1: no JSON object with a field `text`") as caught:
        list(documents(source))
    assert "\n" not in str(caught.value)
    assert list(documents(source, SKIP)) == TEXTS
    assert "1 bad lines are left out, the first: " in caplog.text
    assert "line 1: no JSON object" in caplog.text


def test_a_row_that_is_not_utf_8_is_one_line_or_left_out(tmp_path, caplog):
    values = [b"fine", b"\xff\xfe", b"good", b"\xc3", b"last"]
    table = pa.table({"text": invalid_strings(values)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    source = str(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="row 2: the text is not UTF-8"):
        list(documents(source))
    assert list(documents(source, SKIP)) == ["fine", "good", "last"]
    assert "2 bad lines are left out, the first: " in caplog.text
    skipped = Skipped()
    list(replace(parts(source, SKIP)[0], start=1).documents(skipped))
    assert skipped.count == 1
    assert "row 4: " in skipped.first


def test_a_row_of_a_data_set_without_text_is_left_out(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": ["a"]}\n{"text": ["b"]}\n')
    with pytest.raises(UserError, match="file 1, row 1: a text is list, not a string"):
        list(documents(f"hf:{tmp_path}:train"))
    assert list(documents(f"hf:{tmp_path}:train", SKIP)) == []


def test_skipped_lines_are_told_from_the_cache_too(tokenizer, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("EVO_CACHE", str(tmp_path / "cache"))
    how = {"tokenizer": tokenizer, "vocabulary": 300, "sequence_length": 8}
    bad = write_lines(tmp_path / "bad.jsonl", TEXTS, bad=BAD_LINES)
    good = write_lines(tmp_path / "good.jsonl", TEXTS)
    expected = load_text(str(good), **how)
    for _ in range(2):
        found = load_text(str(bad), **how, reading=SKIP)
        assert found.hash == expected.hash
    assert caplog.text.count(f"{len(BAD_LINES)} bad lines are left out") == 2
    with pytest.raises(UserError, match="no JSON object"):
        load_text(str(bad), **how)  # what was kept for a reading that skips is not taken


def test_a_prepared_corpus_counts_what_it_leaves_out(tokenizer, tmp_path):
    write_lines(tmp_path / "a.jsonl", TEXTS, bad=BAD_LINES)
    (chunk,) = chunks_of([str(tmp_path / "a.jsonl")], reading=SKIP)
    (tmp_path / "out").mkdir()
    record = tokenise_chunk(0, chunk, tokenizer, tmp_path / "out")
    assert record == read_record(tmp_path / "out", 0)
    assert (record.documents, record.skipped) == (len(TEXTS), len(BAD_LINES))


def test_a_stream_leaves_out_bad_lines(tokenizer, tmp_path):
    bad = write_lines(tmp_path / "bad.jsonl", TEXTS, bad=BAD_LINES)
    good = write_lines(tmp_path / "good.jsonl", TEXTS)
    streams = [BlockStream(parts_of(str(source), SKIP), tokenizer, 8) for source in (bad, good)]
    assert np.array_equal(*(stream.read(20) for stream in streams))
