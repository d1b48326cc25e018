"""`evo prepare`."""

from __future__ import annotations

from evo.data.config import PrepareConfig


def run(config: PrepareConfig) -> None:
    """Tokenise the corpus, and print what it holds."""
    from evo.data.prepare import prepare

    manifest = prepare(config)
    print(
        f"{config.out}: {manifest.documents:,} documents, {manifest.tokens:,} tokens, "
        f"{len(manifest.shards)} shards"
        + (f", {manifest.skipped:,} bad lines left out" if manifest.skipped else "")
    )
