import dataclasses
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch.nn import functional

from evo import checkpoint
from evo.errors import UserError
from evo.extract import extract
from tests.cuts import random_subnet
from tests.families import random_tokens
from workers.scorer import Scorer, ScoringSettings, is_out_of_memory

BLOCKS = random_tokens(12, 60)


@pytest.fixture
def loaded(teacher):
    return checkpoint.load(teacher("llama-tied"))


def scorer_of(loaded, **settings):
    return Scorer(loaded.config, loaded.weights, loaded.tied, BLOCKS, ScoringSettings(**settings))


def subnets(loaded, count):
    rng = np.random.default_rng(1)
    dimensions = loaded.architecture.dimensions
    return [random_subnet(dimensions, rng, uniform=False) for _ in range(count)]


def test_equals_the_extracted_networks_own_cross_entropy(loaded):
    scorer = scorer_of(loaded, micro_batch=5)
    for subnet in subnets(loaded, 3):
        model = extract(loaded.config, loaded.weights, subnet, tied=True)
        rows = torch.from_numpy(BLOCKS[2:9]).long()
        with torch.inference_mode():
            logits = model.double()(rows[:, :-1])
            expected = functional.cross_entropy(logits.mT, rows[:, 1:], reduction="sum").item()
        score = scorer.score(subnet.pack(), subnet.id, (2, 9))
        assert sum(score.nll) == pytest.approx(expected, rel=1e-6)
        assert (score.tokens, score.failure) == (7 * 59, None)
        assert score.seconds > 0


def test_a_score_depends_on_nothing_but_candidate_and_rows(loaded):
    candidates = subnets(loaded, 4)
    shards = [(0, 4), (4, 8), (8, 12)]
    units = [(subnet, rows) for subnet in candidates for rows in shards]
    scorer = scorer_of(loaded)
    expected = {(s.id, rows): scorer.score(s.pack(), s.id, rows).nll for s, rows in units}
    other = scorer_of(loaded, cache_bytes=0)
    for index in np.random.default_rng(0).permutation(len(units)):
        subnet, rows = units[index]
        assert other.score(subnet.pack(), subnet.id, rows).nll == expected[subnet.id, rows]


def test_weights_and_text_are_only_read(loaded):
    copies = {name: tensor.clone() for name, tensor in loaded.weights.items()}
    full = subnets(loaded, 1)[0].full(loaded.architecture.dimensions)
    BLOCKS.flags.writeable = False
    try:
        assert scorer_of(loaded).score(full.pack(), full.id, (0, 12)).failure is None
    finally:
        BLOCKS.flags.writeable = True
    for name, tensor in loaded.weights.items():
        assert torch.equal(tensor, copies[name])


def test_keeps_the_last_candidates_within_the_bytes_allowed(loaded):
    full = subnets(loaded, 1)[0].full(loaded.architecture.dimensions)
    size = 4 * sum({id(t): t.numel() for t in loaded.weights.values()}.values())
    names = ["a", "b", "c"]
    for allowed, kept in ((0, ["c"]), (2 * size - 1, ["c"]), (2 * size, ["b", "c"])):
        scorer = scorer_of(loaded, cache_bytes=allowed)
        for name in names:
            scorer.score(full.pack(), name, (0, 1))
        assert list(scorer.held) == kept


def test_a_candidate_without_a_finite_nll_has_failed(loaded):
    full = subnets(loaded, 1)[0].full(loaded.architecture.dimensions)
    weights = dict(loaded.weights)
    weights["transformer.ln_f.weight"] = weights["transformer.ln_f.weight"] * torch.nan
    broken = dataclasses.replace(loaded, weights=weights)
    score = scorer_of(broken).score(full.pack(), full.id, (3, 6))
    assert score.nll == ()
    assert (score.tokens, score.failure) == (0, "NLL of sequence 3 is nan")


MEMORY_SCRIPT = """
    import resource, sys
    import numpy as np, psutil, torch
    from litgpt.config import Config
    from litgpt.model import GPT
    from evo.subnet import Dimensions, Subnet
    from workers.scorer import Scorer, ScoringSettings

    config = Config(name="wide", n_layer=1, n_embd=64, n_head=4, intermediate_size=8192,
                    block_size=512, vocab_size=100, padded_vocab_size=100)
    torch.manual_seed(0)
    blocks = np.random.default_rng(0).integers(100, size=(16, 512), dtype=np.int32)
    weights = GPT(config).state_dict()  # 16 MiB of activations per sequence and layer
    scorer = Scorer(config, weights, False, blocks, ScoringSettings(micro_batch=16, cache_bytes=0))
    full = Subnet.full(Dimensions(1, 64, 4, 8192))
    def score(name):
        return scorer.score(full.pack(), name, (0, 16))
    expected = score("a")
    for headroom in (150, 4):
        limit = psutil.Process().memory_info().vms + headroom * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        got = score(str(headroom))
        print(headroom, got.nll == expected.nll, got.tokens, got.failure)
"""


def test_out_of_memory_halves_the_micro_batch_and_then_fails_the_candidate():
    # Small pools of the allocator would make what is left uncertain.
    script = textwrap.dedent(MEMORY_SCRIPT)
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    lines = done.stdout.splitlines()
    assert lines[0] == f"150 True {16 * 511} None", done.stderr
    assert lines[1].startswith("4 False 0 out of memory with one sequence at a time: "), done.stderr


def test_other_errors_are_no_lack_of_memory(loaded):
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not fit; check memory_format"))
    with pytest.raises(ValueError, match="no genome"):
        scorer_of(loaded).score(b"short", "x", (0, 1))


def test_too_long_sequences_are_refused(loaded):
    blocks = random_tokens(2, loaded.config.block_size + 2)
    with pytest.raises(UserError, match="takes at most"):
        Scorer(loaded.config, loaded.weights, loaded.tied, blocks, ScoringSettings())


@pytest.mark.parametrize(
    "settings",
    [
        {"device": "tpu"},
        {"dtype": "float16"},
        {"micro_batch": 0},
        {"threads": 0},
        {"cache_bytes": -1},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(UserError):
        ScoringSettings(**settings)


def test_the_default_dtype_depends_on_the_device():
    assert ScoringSettings().dtype == "float32"
    assert ScoringSettings(device="cuda").dtype == "bfloat16"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_cpu(loaded):
    subnet = subnets(loaded, 1)[0]
    expected = scorer_of(loaded).score(subnet.pack(), subnet.id, (0, 12)).nll
    for dtype, tolerance in (("float32", 1e-4), ("bfloat16", 1e-2)):
        scorer = scorer_of(loaded, device="cuda", dtype=dtype)
        score = scorer.score(subnet.pack(), subnet.id, (0, 12))
        assert score.nll == pytest.approx(expected, rel=tolerance)
