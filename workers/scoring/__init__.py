"""Scoring within one process: teacher, text and genome in, score out. Without Ray."""
