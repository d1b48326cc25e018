"""Commands about jobs on a cluster."""
