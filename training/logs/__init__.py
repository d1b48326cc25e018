"""log.jsonl of a run, its copies for other tools, and the progress on the terminal."""
