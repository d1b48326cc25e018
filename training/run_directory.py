"""The files of a pretraining run's directory."""

from __future__ import annotations

SUMMARY = "summary.json"

RESULT = "model"
"""The checkpoint directory of the trained network."""

CHECKPOINTS = "checkpoints"
"""An interrupted run goes on from these."""

STOP = ".stop"
"""A file by which the driver asks the workers to write a checkpoint and end."""

FREE = (
    "model", "teacher", "teacher_logits", "text", "validation_text", "micro_batch",
    "text_field", "on_bad_line", "bos",
)  # fmt: skip
"""Recorded settings that may differ at every start. A path does not say what lies there; the hash
that stands beside it does. The size of a micro-batch changes only the last bits of the result."""
