"""Pretraining of the search's winners on Ray Train."""
