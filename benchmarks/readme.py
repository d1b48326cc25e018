"""All results on one page, README.md beside this file, from the pages of the benchmarks.

python -m benchmarks.readme
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGES = (
    "rungs", "scaling", "proposals", "vs_whittle", "orders_and_spaces", "scoring", "memory",
    "interruptions", "prepare", "train_throughput", "distillation", "training_interruptions",
    "learning_rates",
)  # fmt: skip
HEAD = """# Benchmarks

Every figure that is claimed anywhere, with the command that measures it and the machine it was
measured on. `python -m benchmarks.NAME` measures again and rewrites NAME.json and NAME.md;
`python -m benchmarks.readme` rewrites this page.
"""


def page(name: str) -> str:
    """A benchmark's page, its headings one level down."""
    return re.sub(r"(?m)^#", "##", (HERE / f"{name}.md").read_text()).strip() + "\n"


def main() -> None:
    """Write the page."""
    pages = [page(name) for name in PAGES if (HERE / f"{name}.md").is_file()]
    (HERE / "README.md").write_text("\n".join([HEAD, *pages]))


if __name__ == "__main__":
    main()
