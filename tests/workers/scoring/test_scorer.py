import dataclasses
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from evo.errors import UserError
from evo.genome.operators.gate_swaps import GateGradients
from evo.model import checkpoint
from evo.model.extract import extract
from evo.model.gate_gradients import gate_gradients
from evo.model.kl import Divergence
from evo.search.shard_score import ShardScore
from tests.support.cuts import random_subnet
from tests.support.families import random_tokens
from workers.scoring.gpu_memory import is_out_of_memory
from workers.scoring.scorer import Scorer
from workers.settings import ScoringSettings

BLOCKS = random_tokens(12, 60)


@pytest.fixture
def loaded(teacher):
    return checkpoint.load(teacher("llama-tied"))


def scorer_of(loaded, **settings):
    return Scorer(loaded, BLOCKS, ScoringSettings(**settings))


def subnets(loaded, count):
    rng = np.random.default_rng(1)
    dimensions = loaded.architecture.dimensions
    return [random_subnet(dimensions, rng, uniform=False) for _ in range(count)]


def test_equals_the_extracted_networks_own_cross_entropy(loaded):
    scorer = scorer_of(loaded, micro_batch=5)
    for subnet in subnets(loaded, 3):
        model = extract(loaded, subnet)
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


def test_gradients_are_those_of_the_gated_teacher(loaded):
    scorer, (subnet, *_) = scorer_of(loaded), subnets(loaded, 1)
    found = scorer.gates(subnet.pack(), (3, 5))
    expected = gate_gradients(loaded, subnet, BLOCKS[3:5])
    assert isinstance(found, GateGradients)
    for name, values in vars(expected).items():
        assert np.array_equal(getattr(found, name), values)
    assert scorer.held == ()


@pytest.mark.parametrize(("failures", "fails"), [(1, False), (2, True)])
def test_gradients_that_find_no_memory_are_tried_once_more(loaded, failures, fails):
    class Full(Scorer):
        tries = 0

        def _gates(self, *arguments):
            self.tries += 1
            if self.tries <= failures:
                raise MemoryError("no room for 3 GiB")
            return super()._gates(*arguments)

    subnet = subnets(loaded, 1)[0]
    scorer = Full(loaded, BLOCKS, ScoringSettings())
    scorer.score(subnet.pack(), subnet.id, (0, 1))
    found = scorer.gates(subnet.pack(), (0, 1))
    assert scorer.held == ()  # what others had is given back
    assert isinstance(found, ShardScore) == fails
    if isinstance(found, ShardScore):
        assert found.failure == "out of memory for gradients: no room for 3 GiB"


def whole_kl(loaded, subnet, rows):
    """KL(teacher || candidate) of each sequence, from log_softmax of litgpt's own logits."""
    tokens = torch.from_numpy(BLOCKS[slice(*rows), :-1]).long()
    model = extract(loaded, subnet)
    with torch.inference_mode():
        theirs, own = (
            one.double()(tokens)[..., :112].log_softmax(-1) for one in (loaded.model(), model)
        )
    return (theirs.exp() * (theirs - own)).sum((1, 2)).numpy()


def test_divergence_is_measured_beside_the_nll(loaded):
    plain, scorer = scorer_of(loaded), scorer_of(loaded, divergence=Divergence(112))
    for subnet in subnets(loaded, 3):
        score = scorer.score(subnet.pack(), subnet.id, (2, 9))
        assert score.divergence == pytest.approx(whole_kl(loaded, subnet, (2, 9)), rel=2e-5)
        expected = plain.score(subnet.pack(), subnet.id, (2, 9))
        assert score.nll == pytest.approx(expected.nll, rel=1e-6)
        assert expected.divergence is None
        assert (score.tokens, score.failure) == (7 * 59, None)


def test_what_the_teacher_says_is_kept_or_made_again_with_the_same_result(loaded):
    candidates, shards = subnets(loaded, 3), [(0, 4), (4, 8), (8, 12)]
    one_shard = 4 * 59 * (loaded.config.n_embd + 1) * 4
    found = {}
    for capacity, kept in ((2**30, 3), (2 * one_shard, 2), (0, 0)):
        scorer = scorer_of(loaded, divergence=Divergence(112), teacher_bytes=capacity)
        found[capacity] = [
            scorer.score(subnet.pack(), subnet.id, rows).divergence
            for subnet in candidates
            for rows in shards
        ]
        assert scorer._states.kept == tuple(shards[:kept])
    assert found[2**30] == found[2 * one_shard] == found[0]


def test_the_teacher_runs_on_the_shared_weights_themselves(loaded):
    scorer = scorer_of(loaded, divergence=Divergence(112))
    subnet = subnets(loaded, 1)[0]
    scorer.score(subnet.pack(), subnet.id, (0, 4))
    teacher = scorer._states.teacher
    assert teacher.lm_head.weight.data_ptr() == loaded.weights["lm_head.weight"].data_ptr()
    blocks = [p for block in teacher.transformer.h for p in block.parameters()]
    assert all(parameter.is_meta for parameter in blocks)


def test_threads_may_score_side_by_side(loaded):
    candidates = subnets(loaded, 4)
    units = [(s, rows) for s in candidates for rows in ((0, 4), (4, 8))]
    alone = scorer_of(loaded)
    expected = [alone.score(s.pack(), s.id, rows).nll for s, rows in units]
    scorer = scorer_of(loaded, cache_bytes=0)
    with ThreadPoolExecutor(2) as threads:
        scores = threads.map(lambda unit: scorer.score(unit[0].pack(), unit[0].id, unit[1]), units)
        assert [score.nll for score in scores] == expected


def test_weights_and_text_are_only_read(loaded):
    copies = {name: tensor.clone() for name, tensor in loaded.weights.items()}
    full = subnets(loaded, 1)[0].full(loaded.architecture.dimensions)
    BLOCKS.flags.writeable = False
    try:
        for settings in ({}, {"divergence": Divergence(112)}):
            score = scorer_of(loaded, **settings).score(full.pack(), full.id, (0, 12))
            assert score.failure is None
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
    from evo.genome.subnet import Dimensions, Subnet
    from evo.model.network import Network
    from workers.settings import ScoringSettings
    from workers.scoring.scorer import Scorer

    config = Config(name="wide", n_layer=1, n_embd=64, n_head=4, intermediate_size=8192,
                    block_size=512, vocab_size=100, padded_vocab_size=100)
    torch.manual_seed(0)
    blocks = np.random.default_rng(0).integers(100, size=(16, 512), dtype=np.int32)
    model = GPT(config)  # 16 MiB of activations per sequence and layer
    settings = ScoringSettings(micro_batch=16, cache_bytes=0)
    scorer = Scorer(Network.of(model), blocks, settings)
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


@pytest.mark.slow
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
        Scorer(loaded, blocks, ScoringSettings())


@pytest.mark.parametrize(
    "settings",
    [
        {"device": "tpu"},
        {"dtype": "float16"},
        {"micro_batch": 0},
        {"threads": 0},
        {"cache_bytes": -1},
        {"teacher_bytes": -1},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(UserError):
        ScoringSettings(**settings)


def test_the_default_dtype_depends_on_the_device():
    assert ScoringSettings().dtype == "float32"
    assert ScoringSettings(device="cuda").dtype == "bfloat16"


def test_the_micro_batch_of_a_gpu_is_no_constant():
    assert ScoringSettings().micro_batch == 8
    assert ScoringSettings(device="cuda").micro_batch is None


class Attention(TorchFunctionMode):
    """Sees what torch's attention is asked for."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            mask = kwargs.get("attn_mask")
            self.calls.append((*(one.dtype for one in args), mask, kwargs["is_causal"]))
        return func(*args, **kwargs)


@pytest.mark.parametrize("family", ["neox", "llama-tied", "qwen3", "olmo2"])
def test_attention_is_asked_for_in_the_way_that_flash_attention_can_serve(teacher, family):
    """Causal without a mask, and all of it in bfloat16: rotary tables in float32 must not leak."""
    cut = checkpoint.load(teacher(family))
    subnet = subnets(cut, 1)[0]
    scorer = scorer_of(cut, dtype="bfloat16")
    with Attention() as attention:
        assert scorer.score(subnet.pack(), subnet.id, (0, 2)).failure is None
    assert len(attention.calls) == subnet.widths.layers
    assert set(attention.calls) == {(torch.bfloat16,) * 3 + (None, True)}


on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.cuda
@on_cuda
@pytest.mark.parametrize("share", [1.0, 0.0], ids=["on the device", "gathered from the host"])
def test_cuda_agrees_with_cpu(loaded, share):
    """With no share of the memory, the teacher stays on the host, as one larger than the GPU."""
    subnet = subnets(loaded, 1)[0]
    expected = scorer_of(loaded, divergence=Divergence(112)).score(
        subnet.pack(), subnet.id, (0, 12)
    )
    for dtype, tolerance in (("float32", 1e-4), ("bfloat16", 3e-2)):
        scorer = scorer_of(
            loaded,
            device="cuda",
            dtype=dtype,
            micro_batch=4,
            device_share=share,
            divergence=Divergence(112),
        )
        assert scorer.teacher.weights["lm_head.weight"].is_cuda == (share == 1.0)
        for _ in range(2):
            score = scorer.score(subnet.pack(), subnet.id, (0, 12))
            assert score.nll == pytest.approx(expected.nll, rel=tolerance)
            assert score.divergence == pytest.approx(expected.divergence, rel=tolerance)


@pytest.mark.cuda
@on_cuda
@pytest.mark.parametrize("share", [1.0, 0.0], ids=["on the device", "gathered from the host"])
def test_gradients_on_cuda_agree_with_those_on_cpu(loaded, share):
    subnet = subnets(loaded, 1)[0]
    expected = scorer_of(loaded).gates(subnet.pack(), (0, 4))
    for dtype, least in (("float32", 0.9999), ("bfloat16", 0.95)):
        scorer = scorer_of(loaded, device="cuda", dtype=dtype, micro_batch=4, device_share=share)
        found = scorer.gates(subnet.pack(), (0, 4))
        for name, values in vars(expected).items():
            both = np.stack([values.ravel(), getattr(found, name).ravel()])
            assert np.corrcoef(both)[0, 1] > least


@pytest.mark.cuda
@on_cuda
def test_cuda_scores_by_flash_attention_and_beside_a_gather(loaded):
    candidates = subnets(loaded, 6)
    scorer = scorer_of(loaded, device="cuda", micro_batch=4, cache_bytes=0)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # refuses where flash attention cannot serve
        expected = [scorer.score(s.pack(), s.id, (0, 12)).nll for s in candidates]
    with ThreadPoolExecutor(2) as threads:
        scores = list(threads.map(lambda s: scorer.score(s.pack(), s.id, (0, 12)), candidates))
    assert [score.nll for score in scores] == expected
