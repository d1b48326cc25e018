"""Who may import whom: arrows point down, and what needs no Ray and no torch loads neither."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("evo", "workers", "training", "dashboards")
TOP = {
    "evo/cli.py",
    "evo/commands/search/driver.py",
    "evo/commands/search/inputs.py",
    "evo/commands/search/searches.py",
    "evo/commands/search/summary.py",
    "evo/commands/search/config.py",
    "evo/commands/quickstart.py",
    "evo/embedded/make.py",
}
"""What runs things from end to end, or says how, and so knows every room."""

LAYERS = [
    ("errors", "strict_json"),
    ("files", "subnet"),
    ("cost", "settings", "history", "rungs", "score_cache", "proxy"),
    ("order", "bins", "limits", "front"),
    ("fit",),
    ("reach", "operators", "latency"),
    ("space",),
    ("enumeration", "head_size_space"),
    ("strategy",),
    ("evolution", "baselines", "lane", "warm_start"),
    ("one_plus_lambda",),
]
"""The search side, which needs neither Ray nor torch; each file imports only from above its row."""

LIGHT = [name for names in LAYERS for name in names]
PLAIN = ["workers.pool.queues", "workers.scoring.scorer"]


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path, *, lazy: bool = True) -> set[str]:
    """The modules that a file imports; without `lazy` ones, only when it is itself imported."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(path: Path) -> set[str]:
    return {module.partition(".")[0] for module in imports(path)} & set(ROOMS)


def loaded_by(modules: list[str]) -> set[str]:
    """The top-level packages in a fresh interpreter after these imports."""
    names = "{name.partition('.')[0] for name in sys.modules}"
    code = f"import sys, {', '.join(modules)}; print(*{names})"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_the_search_side_loads_neither_ray_nor_torch():
    loaded = loaded_by([f"evo.{name}" for name in LIGHT])
    assert not loaded & {"ray", "torch", "litgpt", "transformers", "workers", "training"}


def test_the_scorer_loads_no_ray():
    assert not loaded_by(PLAIN) & {"ray", "transformers"}


def test_litgpt_is_imported_in_one_place():
    modules = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in sources(room)
        if any(module.split(".")[0] == "litgpt" for module in imports(path))
    }
    assert modules == {"evo/model/litgpt.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_sources(room):
    assert sources(room)


def test_arrows_point_down():
    allowed = {
        "evo": {"evo"},
        "workers": {"evo", "workers"},
        "training": {"evo", "training"},
        "dashboards": {"evo", "workers", "training", "dashboards"},
    }
    wrong = {
        str(path.relative_to(ROOT)): rooms(path) - allowed[room]
        for room in ROOMS
        for path in sources(room)
        if str(path.relative_to(ROOT)) not in TOP and rooms(path) - allowed[room]
    }
    assert not wrong


def test_nothing_depends_on_what_runs_it():
    """The search's own files know nothing of the driver or the command line above them."""
    above = {
        "evo.commands.search.driver",
        "evo.commands.search.inputs",
        "evo.commands.search.searches",
        "evo.commands.search.summary",
        "evo.cli",
        "evo.commands.quickstart",
        "evo.embedded.make",
    }
    wrong = [
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in sources(room)
        if str(path.relative_to(ROOT)) not in TOP | {"evo/__main__.py"} and imports(path) & above
    ]
    assert not wrong


def test_within_the_search_arrows_point_down():
    level = {f"evo.{name}": number for number, names in enumerate(LAYERS) for name in names}
    for module, number in level.items():
        path = ROOT / (module.replace(".", "/") + ".py")
        ours = {one for one in imports(path) if one.startswith("evo.") and one.count(".") == 1}
        assert ours <= set(level), f"{path} imports {ours - set(level)}"
        assert all(level[one] < number for one in ours), f"{path} imports {ours}"


def test_the_command_line_loads_nothing_for_help():
    assert not loaded_by(["evo.cli"]) & {"ray", "torch", "numpy", "workers", "training"}
