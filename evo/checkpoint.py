"""`evo.checkpoint.load`, as the documentation has it; checkpoints are `evo.model.checkpoint`."""

from evo.model.checkpoint import load

__all__ = ["load"]
