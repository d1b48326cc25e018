"""Cross-entropy and divergences from a teacher, computed in chunks."""
