import pytest

from evo import metrics as names
from evo.ray_metrics import RayMetrics
from tests.support.endpoint import FAST, wait_for
from tests.support.rays import own_ray

pytestmark = pytest.mark.ray

HALF_A_BUCKET = 0.125  # of the widest


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    with own_ray(num_cpus=1, _system_config=FAST):
        yield


def test_every_metric_is_at_rays_endpoint_for_every_search():
    tags = {"run": "test", "space": "fine-uniform"}
    with (
        RayMetrics(names.SEARCH, tags | {"bin": "25%"}) as small,
        RayMetrics(names.SEARCH, tags | {"bin": "50%"}) as large,
    ):
        for number, each in enumerate((small, large)):
            for metric in names.SEARCH:
                own = dict.fromkeys(metric.tags, "1")
                if metric.kind == "gauge":
                    each.show({metric: 3.5 + number})
                elif metric.kind == "counter":
                    each.count(metric, 50, **own)
                    each.count(metric, 7, **own)
                    each.count(metric, 0, **own)
                else:
                    each.observe(metric, [3.51, 3.59, 9.0])
        wanted = {(metric.series, bin) for metric in names.SEARCH for bin in ("25%", "50%")}
        samples = wait_for("test", lambda found: wanted <= found.keys())
    assert samples["ray_evo_search_best_fitness", "25%"] == 3.5
    assert samples["ray_evo_search_best_fitness", "50%"] == 4.5
    assert samples["ray_evo_search_evaluations_total", "25%"] == 57
    assert samples["ray_evo_search_fitness_count", "50%"] == 3
    total = samples["ray_evo_search_fitness_sum", "50%"]  # of the buckets' middles, not the values
    assert total == pytest.approx(3.51 + 3.59 + 9.0, abs=3 * HALF_A_BUCKET)


def test_a_value_that_is_none_any_more_is_not_set_again():
    with RayMetrics(names.POOL, {"run": "test"}) as metrics:
        metrics.show({names.ALIVE: 2, names.BUSY: 1})
        metrics.show({names.BUSY: None})
        assert metrics._values == {names.ALIVE: 2}


def test_the_heartbeat_ends_with_the_search():
    metrics = RayMetrics(names.POOL, {"run": "a µ run"})
    assert metrics._thread.is_alive()
    metrics.stop()
    assert not metrics._thread.is_alive()


def test_no_two_metrics_have_one_name():
    every = [metric.name for metric in (*names.SEARCH, *names.POOL, *names.PRETRAIN)]
    assert len(set(every)) == len(every)
