"""How offspring are made of elites: mutation, crossover, swaps by gradients. numpy only."""
