"""Ask and tell: evolution, random and local search, (1 + lambda). numpy only."""
