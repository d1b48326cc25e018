"""Our samples at the endpoint that Ray has for Prometheus."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable

import ray
from prometheus_client.parser import text_string_to_metric_families

FAST = {"metrics_report_interval_ms": 1000}
"""Ray's `_system_config` for tests that wait for metrics."""

Samples = dict[tuple[str, str], float]


def scrape(run: str) -> Samples:
    """The samples of a run, by name and bin."""
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(url, timeout=5).read().decode()
    return {
        (sample.name, sample.labels.get("bin", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("ray_evo_") and sample.labels.get("run") == run
    }


def wait_for(run: str, condition: Callable[[Samples], bool], seconds: float = 40.0) -> Samples:
    """The samples of a run once a condition holds of them."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            samples = scrape(run)
        except OSError:  # the endpoint comes up a few seconds after Ray
            samples = {}
        if condition(samples):
            return samples
        assert time.monotonic() < deadline, samples
        time.sleep(0.5)
