"""Grafana's dashboards and Prometheus' alert rules as code.

`python -m dashboards.grafana.build` writes what stands in `committed/`, for which it needs
`grafana-foundation-sdk`; `evo dashboards` copies that, and needs nothing.
"""
