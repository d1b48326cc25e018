"""Scoring in stages: which candidates go on to more of the fitness text. numpy only."""
