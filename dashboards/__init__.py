"""Dashboards and reports: what a search and a pretraining run show."""
