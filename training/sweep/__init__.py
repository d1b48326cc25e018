"""`evo sweep`: pretraining runs over settings, side by side on Ray Tune."""
