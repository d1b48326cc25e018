"""The teacher of a distillation: a network that runs, or its stored logits."""
