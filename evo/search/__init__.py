"""A search without Ray: rungs, history, resume, winners, warm start, Pareto front."""
