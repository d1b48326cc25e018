"""Commands as Ray jobs: submitted from anywhere, listed, stopped, and submitted again when lost."""
