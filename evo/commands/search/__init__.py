"""`evo search`: its config, its inputs, and the driver of its searches on one pool."""
