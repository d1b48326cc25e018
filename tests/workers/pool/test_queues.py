from collections import Counter

from workers.pool.queues import AFFINITY_LEAD, FairQueues, Unit


def unit(search: str, candidate: str, shard: int = 0) -> Unit:
    return Unit(search, candidate, b"", shard, 8 * shard, 8 * shard + 8)


def filled(searches: str, candidates: int, shards: int) -> FairQueues:
    queues = FairQueues()
    for search in searches:
        for candidate in range(candidates):
            for shard in range(shards):
                queues.add(unit(search, f"{search}{candidate}", shard))
    return queues


def drain(queues: FairQueues, count: int, held: str | None = None) -> list[Unit]:
    taken = []
    for _ in range(count):
        got = queues.take(held, ())
        assert got is not None
        taken.append(got)
    return taken


def test_first_in_first_out_within_a_search():
    queues = filled("a", 3, 2)
    assert queues.size() == queues.size("a") == 6
    names = [(got.candidate, got.shard) for got in drain(queues, 6)]
    assert names == [(f"a{c}", s) for c in range(3) for s in range(2)]
    assert queues.take(None, ()) is None
    assert queues.size("nobody") == 0


def test_searches_take_turns():
    searches = [got.search for got in drain(filled("abc", 5, 2), 12)]
    assert searches == list("abc") * 4


def test_a_worker_keeps_its_candidate_but_no_search_gets_far_ahead():
    queues = filled("ab", 1, 50)
    given: Counter[str] = Counter()
    held = None
    changes = 0
    for _ in range(100):
        got = queues.take(held, ())
        changes += got.candidate != held
        held = got.candidate
        given[got.search] += 1
        assert abs(given["a"] - given["b"]) <= AFFINITY_LEAD
    assert changes <= 2 * 100 / AFFINITY_LEAD


def test_workers_take_different_candidates_while_there_are_any():
    queues = filled("a", 2, 2)
    assert queues.take(None, {"a0"}).candidate == "a1"
    assert queues.take(None, {"a0", "a1"}).candidate == "a0"


def test_a_cancelled_candidate_leaves_its_search_only():
    queues = filled("ab", 2, 2)
    queues.add(unit("b", "a0"))
    assert queues.cancel("a", "a0") == [unit("a", "a0", 0), unit("a", "a0", 1)]
    assert queues.cancel("a", "a0") == queues.cancel("nobody", "a0") == []
    assert (queues.size("a"), queues.size("b")) == (2, 5)
    assert {got.candidate for got in drain(queues, 7)} == {"a0", "a1", "b0", "b1"}
    assert queues.take(None, ()) is None


def test_a_search_that_comes_late_does_not_catch_up():
    queues = filled("a", 1, 100)
    drain(queues, 50)
    for shard in range(50):
        queues.add(unit("b", "b0", shard))
    assert Counter(got.search for got in drain(queues, 40)) == {"a": 20, "b": 20}


def test_a_search_that_comes_while_none_waits_does_not_catch_up():
    queues = filled("a", 1, 50)
    drain(queues, 50)
    for shard in range(50):
        queues.add(unit("b", "b0", shard))
        queues.add(unit("a", "a0", shard))
    assert abs(Counter(got.search for got in drain(queues, 40))["a"] - 20) <= 1
