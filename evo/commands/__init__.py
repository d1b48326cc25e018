"""A file per command: its config, and what it runs."""
