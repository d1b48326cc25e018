"""Checkpoints from and to the directories of Hugging Face transformers."""
