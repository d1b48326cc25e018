import psutil
import pytest
import torch
from litgpt.config import Config
from litgpt.model import GPT

from evo.model import checkpoint
from workers.pool.stored_teacher import TeacherStore, fetch_teacher, store_teacher

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


def bfloat16_teacher(directory, channels=64):
    torch.manual_seed(0)
    config = Config(
        name="test",
        n_layer=1,
        n_embd=channels,
        n_head=4,
        intermediate_size=4 * channels,
        block_size=32,
        vocab_size=20_000,
        padded_vocab_size=20_000,
    )
    checkpoint.save(directory, GPT(config), dtype=torch.bfloat16)
    return directory


def test_gives_the_checkpoints_own_weights(teacher):
    loaded = checkpoint.load(teacher("llama-tied"))
    fetched = fetch_teacher(store_teacher(loaded))
    assert fetched.tied
    assert fetched.config == loaded.config
    assert fetched.weights.keys() == loaded.weights.keys()
    for name, tensor in fetched.weights.items():
        assert tensor.dtype == loaded.weights[name].dtype
        assert torch.equal(tensor, loaded.weights[name])
    assert fetched.weights["lm_head.weight"] is fetched.weights["transformer.wte.weight"]


def test_weights_are_mapped_not_copied(tmp_path):
    path = bfloat16_teacher(tmp_path / "teacher", channels=1024)
    loaded = checkpoint.load(path)
    stored = store_teacher(loaded)
    before = psutil.Process().memory_full_info().uss
    first, second = fetch_teacher(stored), fetch_teacher(stored)
    grown = psutil.Process().memory_full_info().uss - before
    size = sum(tensor.nbytes for tensor in loaded.weights.values())
    assert size > 80e6
    assert grown < 0.1 * size
    for name, tensor in first.weights.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, loaded.weights[name])
        assert tensor.data_ptr() == second.weights[name].data_ptr()


def test_it_is_stored_once_and_let_go(tmp_path):
    store = TeacherStore(checkpoint.load(bfloat16_teacher(tmp_path / "teacher")))
    first = store.get()
    assert store.get() is first
    reference = next(iter(first.tensors.values())).array
    store.release()
    assert next(iter(store.get().tensors.values())).array != reference
