"""What runs once on a worker before a search: ranking, micro-batch, calibration."""
