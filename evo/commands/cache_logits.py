"""`evo cache-logits`."""

from __future__ import annotations

from evo.storage.strict_json import dumps
from training.cache_logits import CacheLogitsConfig, cache_logits


def run(config: CacheLogitsConfig) -> None:
    """Run the teacher over the text, and print what was kept."""
    print(dumps(cache_logits(config)))
