"""`evo report` on a finished run of `evo search`, and on runs that are not finished."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from dashboards.report import report
from evo.cli import main
from evo.commands.search.config import SearchConfig
from evo.errors import UserError
from evo.genome.ranking import Order
from tests.dashboards import selections
from tests.support.finished import searched
from tests.support.histories import DIMENSIONS, evolve

SEARCHES = ["coarse-uniform@40%", "fine-layerwise@40%"]
HTML = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page's text, its rows of cells and its pictures; fails where tags do not match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.pictures: list[bytes] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.links += [given[name] for name in ("href", "src") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        if tag == "img":
            self.pictures.append(base64.b64decode(given["src"].partition(",")[2]))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in HTML:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def row(self, heading: str) -> list[str]:
        """The cells after the first, in the first row that begins so."""
        return next(row[1:] for row in self.rows if row and row[0].startswith(heading))


def power_of_ten(value: float) -> str:
    """As text without its markup."""
    return re.sub(r"e\+0*", " × 10", f"{value:.2e}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, teacher: Callable[[str], Path]) -> Path:
    """A finished run with two searches, as `evo search` leaves it; scored here, without Ray."""
    return searched(tmp_path_factory.mktemp("report"), teacher("llama-tied")).out


@pytest.fixture(scope="module")
def path(run: Path) -> Path:
    """The report of that run."""
    return report(run, run.parent / "report")


@pytest.fixture(scope="module")
def page(path: Path) -> Page:
    return Page(path)


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A run of four searches: ended, stopped half-way, without a generation, not begun."""
    config = SearchConfig(
        teacher=Path("/models/<b>R&D</b>"),
        text="wiki.parquet",
        bins=["40%", "60%"],
        spaces=["coarse-uniform", "fine-layerwise"],
        out=tmp_path / "run",
        population=8,
        generations=4,
        patience=3,
        order_text="stdlib:train",
    )
    settings = asdict(config) | {
        "teacher": str(config.teacher),
        "out": str(config.out),
        "text": config.sources,
        "sequence_length": 101,
        "text_hash": "0123456789abcdef",
        "order_text_hash": "fedcba9876543210",
        "text_note": "",
    }
    searches = config.out / "searches"
    evolve(searches / "coarse-uniform@40%", share=40)
    evolve(
        searches / "fine-layerwise@40%", "fine-layerwise", 40, stop_after=2, failing="<i>NaN</i>"
    )
    (searches / "coarse-uniform@60%").mkdir()
    (config.out / "settings.yaml").write_text(yaml.safe_dump(settings))
    Order.by_index(DIMENSIONS).save(config.out / "order.npz")
    return config.out


def test_the_table_is_the_summary(run: Path, page: Page) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert [one["name"] for one in summary["searches"]] == SEARCHES
    for one in summary["searches"]:
        row = page.row(one["name"])
        assert row[:7] == [
            one["candidate"],
            f"{one['params']:,}",
            f"{one['nll']:.4f}",
            f"{one['perplexity']:,.2f}",
            f"{one['evaluations']:,}",
            f"{one['tokens_scored']:,}",
            power_of_ten(one["flops"]),
        ]
        assert float(row[7]) == pytest.approx(one["seconds"], abs=0.05)
        assert row[8] == one["ended"] == "budget"
        assert one["winner"] in page.text
        assert f"the bin: {one['low']:,} to {one['high']:,}" in page.text


def test_a_train_off_says_by_what_its_winner_was_chosen(run: Path, tmp_path: Path) -> None:
    assert "Train-off" not in Page(report(run, tmp_path / "before")).text
    shutil.copytree(run, tmp_path / "run")
    out = tmp_path / "run" / "select" / "40%"
    out.mkdir(parents=True)
    (out / "summary.json").write_text(json.dumps(selections.summary()))
    page = Page(report(tmp_path / "run", tmp_path / "after"))
    assert "Train-off of 40%" in page.text
    assert "chosen by validation NLL after 200 tokens of training" in page.text
    assert "took 30% of the planned run's FLOPs" in page.text
    assert page.row("a" * 16)[3:] == ["90.00", "50.00", "30.00", ""]
    assert page.row("d" * 16)[3:] == ["60.00", "–", "–", "the loss is <nan>"]
    assert "evo pretrain --model m --out o" in page.text
    assert (tmp_path / "after" / "selection-40%.png").read_bytes() in page.pictures


def test_the_header_says_what_was_searched_with_what(run: Path, page: Page) -> None:
    settings = yaml.safe_load((run / "settings.yaml").read_text())
    assert page.row("Teacher") == [settings["teacher"]]
    assert page.row("The teacher's shape")[0].startswith("3 layers × 64 channels")
    fitness_text = page.row("Fitness text")[0]
    assert fitness_text.startswith(settings["text"][0])
    assert settings["text_hash"] in fitness_text
    assert fitness_text.endswith("16 sequences of 40 tokens")
    order_flops = json.loads((run / "summary.json").read_text())["order_flops"]
    assert page.row("Order") == [
        f"activation, on the fitness text, {power_of_ten(order_flops)} FLOPs"
    ]
    assert page.row("Seed") == ["3"]
    assert page.row("text_hash") == [settings["text_hash"]]
    assert "All searches have ended." in page.text


def test_the_winner_in_words(run: Path, page: Page) -> None:
    for name in SEARCHES:
        subnet = json.loads((run / "searches" / name / "winner" / "subnet.json").read_text())
        widths = subnet["widths"]
        layers = len(widths["groups"])
        assert f"{layers} of 3 layers × {widths['channels']} of 64 channels" in page.text
        for column, most in (("groups", 4), ("neurons", 96)):
            values = widths[column]
            one = f"{values[0]} of {most} in each layer"
            each = f"{', '.join(map(str, values))} of {most}, layer by layer"
            assert (one if len(set(values)) == 1 else each) in page.text


def test_pictures_are_in_the_page_and_beside_it(path: Path, page: Page) -> None:
    out = path.parent
    names = {
        "curves.png",
        *(f"{kind}-{one}.png" for one in SEARCHES for kind in ("curve", "shapes")),
    }
    assert {one.name for one in out.iterdir()} == names | {"index.html"}
    assert sorted(page.pictures) == sorted((out / name).read_bytes() for name in names)


def test_nothing_is_loaded_from_elsewhere(path: Path, page: Page) -> None:
    for link in page.links:
        assert link.startswith("data:image/png;base64,") or link.removeprefix("#") in page.ids
    style = path.read_text()
    assert "url(" not in style
    assert "@import" not in style


def test_the_command_writes_into_the_run_and_again(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert main(["report", str(copy)]) == 0
    path = copy / "report" / "index.html"
    assert capsys.readouterr().out.strip() == str(path)
    first = path.read_bytes()
    path.write_text("old")
    assert main(["report", str(copy)]) == 0
    assert path.read_bytes() == first
    assert not list(copy.rglob("*.tmp"))


def test_a_run_that_still_goes_on(unfinished: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in unfinished.rglob("*") if path.is_file()}
    page = Page(report(unfinished, tmp_path / "out"))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "The run goes on, or was stopped before its end" in page.text
    assert "Ended (budget) after 5 of 5 generations, 40 evaluations." in page.text
    assert "So far 2 of 5 generations, 16 evaluations." in page.text
    assert page.text.count("No generation has ended yet.") == 2
    assert page.row("coarse-uniform@40%")[6] == "–"  # FLOPs
    assert page.row("fine-layerwise@40%")[4] == "16"
    assert page.row("coarse-uniform@60%") == ["–"] * 4 + ["0", "0", "–", "0.0", "not yet"]
    assert page.row("Order") == ["activation, on stdlib:train, content fedcba9876543210"]
    assert f"evo extract {unfinished} --search coarse-uniform@40%" in page.text
    assert len(page.pictures) == 5
    assert not (unfinished / "searches" / "fine-layerwise@60%").exists()


@pytest.mark.slow
def test_several_bins_have_a_front(unfinished: Path, tmp_path: Path) -> None:
    assert not (report(unfinished, tmp_path / "one").parent / "front.png").exists()
    evolve(unfinished / "searches" / "coarse-uniform@60%", share=60, stop_after=1)
    out = report(unfinished, tmp_path / "two").parent
    assert (out / "front.png").read_bytes() in Page(out / "index.html").pictures


def test_a_fitness_without_nll_has_no_curves_of_it(unfinished: Path, tmp_path: Path) -> None:
    path = unfinished / "searches" / "coarse-uniform@40%" / "history.parquet"
    for part in path.iterdir():
        table = pq.read_table(part)
        for name in ("nll", "perplexity"):
            none = pa.array([math.nan] * len(table))
            table = table.set_column(table.schema.get_field_index(name), name, none)
        pq.write_table(table, part)
    out = report(unfinished, tmp_path / "out").parent
    assert {one.name for one in out.glob("*.png")} == {
        "curve-fine-layerwise@40%.png", "shapes-fine-layerwise@40%.png"
    }  # fmt: skip
    assert Page(out / "index.html").row("coarse-uniform@40%")[2:4] == ["–", "–"]


def test_operators_and_failures(unfinished: Path, tmp_path: Path) -> None:
    page = Page(report(unfinished, tmp_path / "out"))
    assert page.row("<i>NaN</i>")[0] == "6"
    operators = {row[0] for row in page.rows if row}
    assert {"mutation", "crossover", "sample"} <= operators
    assert page.row("Teacher") == ["/models/<b>R&D</b>"]


def test_a_search_in_which_all_failed(unfinished: Path, tmp_path: Path) -> None:
    directory = unfinished / "searches" / "fine-layerwise@60%"
    history = evolve(directory, "fine-layerwise", 60, stop_after=1, failing="out of memory")
    failed = [row for row in history.rows() if row.status == "failed"]
    assert history.state is not None
    history.fold(failed, history.state)
    history.flush()
    page = Page(report(unfinished, tmp_path / "out"))
    assert page.row("fine-layerwise@60%")[:5] == ["–", "–", "–", "–", "3"]
    assert page.row("out of memory")[0] == "3"


def test_how_offspring_are_made_is_said(unfinished: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((unfinished / "settings.yaml").read_text())
    for gate_text, named in (("rest", "what the fitness text leaves"), ("other.txt", "other.txt")):
        settings |= {"proposals": 16, "gate_text": gate_text}
        (unfinished / "settings.yaml").write_text(yaml.safe_dump(settings))
        algorithm = Page(report(unfinished, tmp_path / gate_text)).row("Algorithm")[0]
        assert "chooses among 16 proposals for a place" in algorithm
        assert algorithm.endswith(f"half of a generation swaps units by gradients on {named}")


@pytest.mark.parametrize("order", ["index", "magnitude"])
def test_an_order_without_text(order: str, unfinished: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((unfinished / "settings.yaml").read_text())
    shutil.rmtree(unfinished / "searches")
    (unfinished / "settings.yaml").write_text(yaml.safe_dump(settings | {"order": order}))
    page = Page(report(unfinished, tmp_path / "out"))
    assert page.row("Order") == [f"{order}; no text is read for it"]


def test_before_anything_is_scored(unfinished: Path, tmp_path: Path) -> None:
    shutil.rmtree(unfinished / "searches")
    (unfinished / "order.npz").unlink()
    page = Page(report(unfinished, tmp_path / "out"))
    assert page.text.count("No generation has ended yet.") == 4
    assert not page.pictures


@pytest.mark.parametrize("settings", [None, "{", "model: a\n", "bins: 3\nspaces: 4\n"])
def test_a_directory_that_is_no_run(settings: str | None, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    if settings is not None:
        (run / "settings.yaml").write_text(settings)
    with pytest.raises(UserError, match="is no run"):
        report(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["history.parquet/000001.parquet", "state.json"])
def test_a_damaged_run(name: str, unfinished: Path, tmp_path: Path) -> None:
    (unfinished / "searches" / "coarse-uniform@40%" / name).write_text("{")
    with pytest.raises(UserError, match=rf"coarse-uniform@40%/{name} is damaged"):
        report(unfinished, tmp_path / "out")


def test_a_run_without_its_order(unfinished: Path, tmp_path: Path) -> None:
    (unfinished / "order.npz").unlink()
    with pytest.raises(UserError, match=r"no order\.npz"):
        report(unfinished, tmp_path / "out")


def test_an_output_under_a_file(
    unfinished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["report", str(unfinished), "--out", str(tmp_path / "file" / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("evo report: cannot write")
    assert error.count("\n") == 1
