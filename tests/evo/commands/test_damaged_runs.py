"""Damaged files of runs: each command ends with one line that names the file, or does right.

Every file of a finished and of an unfinished search, of a train-off and of pretraining runs is
damaged in every way of `tests.support.damage`, and read by the commands that read it, in this
process and without Ray.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from evo.cli import main
from evo.commands.search.claim import claim
from evo.commands.search.inputs import read_inputs
from evo.commands.search.measurements import order_of
from evo.commands.search.searches import searches_of
from evo.errors import UserError
from evo.search.spent import Spent
from evo.storage.strict_json import dumps
from tests.dashboards import selections
from tests.support import finished
from tests.support.alone import launch_here
from tests.support.damage import Damage, damages
from tests.support.tried import tried
from tests.training.sweep.test_sweep_results import sweep_of
from training.pretrain import pretrain
from training.sweep.sweep_results import read_results, write_results
from training.sweep.trials import Trial

Read = Callable[[Path], str]
"""Runs a command on a run directory; what it says where it refuses, or an empty text."""


def said(*arguments: object) -> str:
    """What a command says on stderr, where it refuses its input."""
    error = StringIO()
    with redirect_stderr(error), redirect_stdout(StringIO()):
        code = main([str(argument) for argument in arguments])
    assert code in (0, 2), error.getvalue()
    lines = [line for line in error.getvalue().splitlines() if line.startswith("evo ")]
    assert len(lines) == (code == 2), error.getvalue()
    assert "Traceback" not in error.getvalue()
    return lines[0] if lines else ""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, teacher: Callable[[str], Path]) -> Path:
    """The runs as they were left."""
    root = tmp_path_factory.mktemp("runs")
    (root / "teacher").write_text(str(teacher("llama-tied")))
    for name in ("search", "unfinished", "random", "pretrain", "half"):
        (root / name).mkdir()
    finished.searched(root / "search", teacher("llama-tied"), generations=1)
    config = finished.searched(
        root / "unfinished", teacher("llama-tied"), generations=3, stop_after=2
    )
    journal = config.out / "searches" / "coarse-uniform@40%" / "journal-000002.jsonl"
    score = '"nll": [1.0], "tokens": 3, "seconds": 0.1, "failure": null, "divergence": null, '
    lines = [f'{{"candidate": "{n:016x}", "shard": 0, {score}"latency": null}}\n' for n in range(3)]
    journal.write_text("".join(lines))
    select = root / "search" / "run" / "select" / "40%"
    select.mkdir(parents=True)
    (select / "summary.json").write_text(dumps(selections.summary()))
    (root / "sweep").mkdir()
    sweep_of(root / "sweep" / "run")
    finished.pretrained(root / "pretrain")
    finished.pretrained(root / "random", init="random", seed=1)
    half = finished.pretrained(root / "half")
    shutil.rmtree(half.out)

    def stopped(run: object) -> None:
        launch_here(run)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(half, launch=stopped)
    shutil.rmtree(half.out / "model")
    return root


def report(root: Path, out: Path) -> str:
    return said("report", root / "search" / "run", "--out", out)


def extract(root: Path, out: Path) -> str:
    return said("extract", root / "search" / "run", "--search", "fine-layerwise@40%", "--out", out)


def compare(root: Path, out: Path) -> str:
    return said("compare", root / "random" / "run", root / "pretrain" / "run", "--out", out)


def export(root: Path, out: Path) -> str:
    return said("export", root / "pretrain" / "run" / "model", "--no-verify", "--out", out)


def resume_search(root: Path, out: Path) -> str:
    """What `evo search` does before it scores."""
    teacher = Path((root / "teacher").read_text())
    config = finished.search_config(root / "unfinished", teacher, generations=3)
    try:
        inputs = read_inputs(config)
        claim(inputs)
        if not (config.out / "order.npz").is_file():
            return ""  # it is ranked anew, on a worker
        for search in searches_of(inputs, order_of(inputs), None, Spent(config.out)):
            search.begin_generation()
    except UserError as error:
        return str(error)
    return ""


def read_sweep(root: Path, out: Path) -> str:
    """What `evo sweep` does with trials that are there."""
    run = root / "sweep" / "run"
    settings = {"alpha": 0.1, "init": "weights"}
    trials = [Trial(path.name, settings) for path in sorted(run.glob("*_x"))]
    try:
        write_results(read_results(run, trials, {}), run)
    except UserError as error:
        return str(error)
    return ""


def resume_pretrain(root: Path, out: Path) -> str:
    """What `evo pretrain` does with a run that was cut off."""
    config = finished.pretrain_config(root / "half")
    try:
        pretrain(replace(config, loggers=[]), launch=launch_here)
    except UserError as error:
        return str(error)
    return ""


READERS: dict[str, tuple[Read | Callable[[Path, Path], str], str, tuple[str, ...]]] = {
    "report": (report, "search/run", ("settings.yaml", "summary.json", "order.npz",
               "000001.parquet", "state.json", "select/40%/summary.json")),
    "extract": (extract, "search/run", ("settings.yaml", "000001.parquet", "state.json")),
    "compare": (compare, "pretrain/run", ("settings.yaml", "log.jsonl")),
    "export": (export, "pretrain/run/model", ("lit_model.pth", "subnet.json")),
    "search": (resume_search, "unfinished/run", ("settings.yaml", "order.npz", "000001.parquet",
               "state.json", "journal-000002.jsonl", "asked-000002.json")),
    "sweep": (read_sweep, "sweep/run", ("log.jsonl", "summary.json", "stopped.json")),
    "pretrain": (resume_pretrain, "half/run", ("settings.yaml", "log.jsonl", ".metadata",
                 ".distcp")),
}  # fmt: skip


def files(directory: Path, names: tuple[str, ...]) -> list[Path]:
    return sorted(
        path
        for path in directory.rglob("*")
        if path.is_file() and any(str(path).endswith(name) for name in names)
        and "winner" not in path.parts
    )  # fmt: skip


def refused_rightly(line: str, path: Path) -> bool:
    """Whether a line names the file, or its directory."""
    places = (path.name, str(path.parent))
    return not line.strip() or any(place in line for place in places)


def spread(found: list[Damage], most: int) -> list[Damage]:
    """At most so many, evenly from all."""
    return found[:: -(-len(found) // most)] if len(found) > most else found


def check(
    command: str, root: Path, tmp: Path, each: Callable[[Damage], bool], most: int = 10**9
) -> None:
    """Damage every file that a command reads, one after the other, at most so often each."""
    read, place, names = READERS[command]
    found = files(root / place, names)
    assert len(found) >= len(names) - 1, found
    wrong, inputs = [], 0
    for path in found:
        whole = path.read_bytes()
        for damage in spread(list(filter(each, damages(path))), most):
            kept = tmp / "kept"
            shutil.copytree(root / place, kept)
            if damage.content is None:
                path.unlink()
            else:
                path.write_bytes(damage.content)
            before = sorted(root.rglob("*"))
            out = tmp / "out"
            inputs += 1
            tried(f"files of a run, read by {command}")
            try:
                line = read(root, out)
                if not refused_rightly(line, path):
                    wrong.append(f"{path.name}: {damage.how}: {line}")
                if line and "\n" in line.strip():
                    wrong.append(f"{path.name}: {damage.how}: more than one line: {line}")
                if line and command == "extract" and out.exists():
                    wrong.append(f"{path.name}: {damage.how}: half-written")
            except Exception as error:
                wrong.append(f"{path.name}: {damage.how}: {type(error).__name__}: {error}"[:300])
            left = [each for each in sorted(root.rglob("*")) if each not in before]
            if any(each.name.endswith(".tmp") for each in left):
                wrong.append(f"{path.name}: {damage.how}: left {left}")
            shutil.rmtree(out, ignore_errors=True)
            shutil.rmtree(root / place)
            shutil.move(kept, root / place)
        assert path.read_bytes() == whole
    assert not wrong, f"{len(wrong)} of {inputs}:\n" + "\n".join(wrong[:60])


@pytest.mark.parametrize("command", ["report", "compare", "search"])
def test_a_cut_off_or_foreign_file_is_named(command: str, root: Path, tmp_path: Path) -> None:
    some = ("'{}' in its place", "line 1 is '[1, 2]'")
    check(command, root, tmp_path, lambda damage: damage.how in some)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("command", "most"),
    [("report", 12), ("extract", 60), ("compare", 150), ("export", 30), ("search", 40),
     ("sweep", 20), ("pretrain", 30)],
)  # fmt: skip
def test_any_damage_is_named_or_does_no_harm(
    command: str, most: int, root: Path, tmp_path: Path
) -> None:
    check(command, root, tmp_path, lambda damage: True, most)
