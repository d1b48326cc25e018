"""`evo prepare`."""

from __future__ import annotations

from evo.data.prepare import PrepareConfig, prepare


def run(config: PrepareConfig) -> None:
    """Tokenise the corpus, and print what it holds."""
    manifest = prepare(config)
    print(
        f"{config.out}: {manifest.documents:,} documents, {manifest.tokens:,} tokens, "
        f"{len(manifest.shards)} shards"
    )
