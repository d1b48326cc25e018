"""What a subnet keeps, costs and may be, and how it is varied. numpy only.

The names that a user gives stand here, where a config finds them without numpy.
"""

SPACES = ("coarse-uniform", "coarse-layerwise", "fine-uniform", "fine-layerwise")

COSTS = ("parameters", "flops", "kv-cache", "latency")

RANKINGS = ("index", "magnitude", "activation")

PROXIES = ("magnitude", "activation")
