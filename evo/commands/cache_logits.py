"""`evo cache-logits`."""

from __future__ import annotations

from evo.storage.strict_json import dumps
from training.config import CacheLogitsConfig


def run(config: CacheLogitsConfig) -> None:
    """Run the teacher over the text, and print what was kept."""
    from training.cache_logits import cache_logits

    print(dumps(cache_logits(config)))
