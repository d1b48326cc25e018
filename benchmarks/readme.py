"""All results on one page, README.md beside this file, from the pages of the benchmarks.

python -m benchmarks.readme
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGES = (
    "search/rungs", "search/surrogate", "pool/scaling", "search/proposals", "whittle/vs_whittle",
    "spaces/orders_and_spaces", "scoring/scoring", "pool/memory", "pool/interruptions",
    "training/prepare", "training/train_throughput", "training/distillation",
    "training/training_interruptions", "training/learning_rates", "ends_best/ends_best",
    "ends_best/decay", "ends_best/niches", "ends_best/looks_ahead",
    "ends_best/halving", "hostile_inputs",
)  # fmt: skip
HEAD = """# Benchmarks

Every figure that is claimed anywhere, with the command that measures it and the machine it was
measured on. `python -m benchmarks.FOLDER.NAME` measures again and rewrites NAME.json and NAME.md
beside itself; `python -m benchmarks.readme` rewrites this page.
"""


def page(name: str) -> str:
    """A benchmark's page, its headings one level down, its pictures found from here."""
    text = re.sub(r"(?m)^#", "##", (HERE / f"{name}.md").read_text())
    folder = name.partition("/")[0]
    return re.sub(r"\]\((\w+\.png)\)", rf"]({folder}/\1)", text).strip() + "\n"


def main() -> None:
    """Write the page."""
    pages = [page(name) for name in PAGES if (HERE / f"{name}.md").is_file()]
    (HERE / "README.md").write_text("\n".join([HEAD, *pages]))


if __name__ == "__main__":
    main()
