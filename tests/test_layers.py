"""Who may import whom, and what the command line loads before it has read its flags."""

import subprocess
import sys
from pathlib import Path

import pytest

from evo.cli import COMMANDS

ROOT = Path(__file__).parents[1]
HEAVY = {"numpy", "ray", "torch", "litgpt", "transformers", "datasets", "pandas", "matplotlib"}


def loaded_by(*modules: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after these imports."""
    names = "{name.partition('.')[0] for name in sys.modules}"
    code = f"import sys, {', '.join(modules)}; print(*{names})"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def modules_of(folder: str) -> list[str]:
    """The modules of a folder, by their dotted names."""
    paths = sorted((ROOT / folder).glob("[a-z]*.py"))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]


def test_layers_point_down():
    """The contracts stand in pyproject.toml, under tool.importlinter."""
    lint = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_linter_sees_an_import_that_points_up(tmp_path):
    """A contract that could not break would be none."""
    for package in ("low", "high"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "low" / "upwards.py").write_text("import high\n")
    (tmp_path / ".importlinter").write_text(
        "[importlinter]\nroot_packages =\n    low\n    high\n"
        "[importlinter:contract:layers]\nname = layers\ntype = layers\nlayers =\n"
        "    high\n    low\n"
    )
    lint = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(lint, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert "low is not allowed to import high" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_config_loads_no_heavy_library(command):
    """`evo COMMAND --help`, and an error in a flag, need the config alone."""
    assert not loaded_by(COMMANDS[command].config.partition(":")[0]) & HEAVY


def test_the_overview_loads_nothing_but_the_table_of_commands():
    assert not loaded_by("evo.cli") & (HEAVY | {"workers", "training"})


@pytest.mark.parametrize("folder", ["evo/genome", "evo/algorithms", "evo/storage"])
def test_numpy_is_all_that_the_search_itself_needs(folder):
    assert not loaded_by(*modules_of(folder)) & {"ray", "torch", "litgpt", "transformers"}


def test_one_search_needs_no_ray():
    """All but `winner`, which cuts a network, do without torch too."""
    modules = [name for name in modules_of("evo/search") if not name.endswith("winner")]
    assert not loaded_by(*modules) & {"ray", "torch", "litgpt", "transformers"}
    assert "ray" not in loaded_by("evo.search.winner")


def test_scoring_needs_no_ray():
    assert not loaded_by(*modules_of("workers/scoring"), "workers.pool.queues") & {
        "ray",
        "transformers",
    }


def test_litgpt_is_imported_in_one_file():
    importers = {
        path.relative_to(ROOT).as_posix()
        for room in ("evo", "workers", "training", "dashboards")
        for path in (ROOT / room).rglob("*.py")
        for line in path.read_text().splitlines()
        if line.strip().startswith(("import litgpt", "from litgpt"))
    }
    assert importers == {"evo/model/litgpt.py"}
