"""FLOPs to match: curves of finished runs against a baseline."""
