"""Perplexity of a checkpoint on a text, and its scores on tasks."""
