import time
import urllib.request

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from tests.support.rays import own_ray
from workers.pool import metrics
from workers.pool.metrics import SearchMetrics, SearchStatus

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    with own_ray(num_cpus=1, _system_config={"metrics_report_interval_ms": 1000}):
        yield


def scrape() -> dict[tuple[str, str], float]:
    """Our samples at the node's endpoint, by name and bin, of the run `test`."""
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(url, timeout=5).read().decode()
    return {
        (sample.name, sample.labels["bin"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("ray_evo_search_") and sample.labels.get("run") == "test"
    }


def wait_for(condition, seconds=40.0):
    deadline = time.monotonic() + seconds
    while True:
        try:
            samples = scrape()
        except OSError:  # the endpoint comes up a few seconds after Ray
            samples = {}
        if condition(samples):
            return samples
        assert time.monotonic() < deadline, samples
        time.sleep(0.5)


def test_every_metric_is_at_rays_endpoint_for_every_search():
    names = {f"ray_{name}" for name in metrics.GAUGES}
    names |= {f"ray_{name}_total" for name in metrics.COUNTERS}
    with (
        SearchMetrics(run="test", space="fine-uniform", bin="25%") as small,
        SearchMetrics(run="test", space="fine-uniform", bin="50%") as large,
    ):
        for number, each in enumerate((small, large)):
            each.show(SearchStatus(3.5 + number, 4.0, generation=2, units_per_second=10))
            each.count(evaluations=50, scored_tokens=4096)
            each.count(evaluations=7)
        wanted = {(name, bin) for name in names for bin in ("25%", "50%")}
        samples = wait_for(lambda found: wanted <= found.keys())
    assert samples["ray_evo_search_best_fitness", "25%"] == 3.5
    assert samples["ray_evo_search_best_fitness", "50%"] == 4.5
    assert samples["ray_evo_search_evaluations_total", "25%"] == 57
    assert samples["ray_evo_search_scored_tokens_total", "50%"] == 4096


def test_the_heartbeat_ends_with_the_search():
    search = SearchMetrics(run="test", space="coarse-uniform", bin="1M")
    assert search._thread.is_alive()
    search.stop()
    assert not search._thread.is_alive()
