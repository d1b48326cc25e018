"""Scoring of subnets on Ray."""
