"""Networks of litgpt: checkpoints, extraction, losses, importance. torch, but no Ray."""
