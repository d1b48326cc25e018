"""`evo select`: the finalists of a search pretrained side by side, halved until one is left."""
