import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from evo.errors import UserError
from evo.genome.subnet import Subnet
from evo.model import checkpoint as checkpoints
from evo.model.extract import extract
from evo.model.network import Network
from tests.support.bpe import write_tokenizer
from tests.support.cuts import random_subnet
from tests.support.families import random_tokens

TOKENS = torch.from_numpy(random_tokens(1, 30)).long()


@pytest.fixture
def directory(teacher, tmp_path) -> Path:
    """A copy of a teacher, to be damaged."""
    return shutil.copytree(teacher("llama"), tmp_path / "teacher")


def refused(directory, match):
    with pytest.raises(UserError, match=match) as caught:
        checkpoints.load(directory)
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)


def edit(directory, **changes):
    path = directory / "model_config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def edit_weights(directory, change):
    weights = torch.load(directory / "lit_model.pth", weights_only=True)
    change(weights)
    torch.save(weights, directory / "lit_model.pth")


def test_missing_things(directory, hf_checkpoint, tmp_path):
    refused(tmp_path / "nothing", "no directory")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has no model_config.yaml$")
    refused(hf_checkpoint("llama"), "`evo import` it first")
    (directory / "lit_model.pth").unlink()
    refused(directory, "has no lit_model.pth and no model.safetensors")


@pytest.mark.parametrize(
    "content", ["", "a: [", "just text", "[1, 2]", "n_embd: wide", "unknown_field: 3", "n_head: 7"]
)
def test_a_config_that_litgpt_cannot_read(content, directory):
    (directory / "model_config.yaml").write_text(content)
    refused(directory, "model_config.yaml is not a model config")


@pytest.mark.parametrize("kept", [0, 10, 3000, -200])
def test_truncated_weights(kept, directory):
    path = directory / "lit_model.pth"
    path.write_bytes(path.read_bytes()[:kept])
    refused(directory, "lit_model.pth cannot be read")


def test_what_is_no_checkpoint(directory):
    torch.save({"iteration": 3}, directory / "lit_model.pth")
    refused(directory, "other things than tensors")
    torch.save([torch.ones(2)], directory / "lit_model.pth")
    refused(directory, "cannot be read")
    torch.save({"run": Path("/")}, directory / "lit_model.pth")  # code is never unpickled
    refused(directory, "cannot be read")


def test_weights_that_do_not_match_the_config(directory):
    edit(directory, n_layer=2)
    refused(directory, r"transformer.h.2.\S+ that model_config.yaml does not know")
    edit(directory, n_layer=4)
    refused(directory, r"lacks the tensor transformer.h.3")
    edit(directory, n_layer=3, intermediate_size=95)
    refused(directory, r"\(96, 64\), but model_config.yaml asks for \(95, 64\)")
    edit(directory, intermediate_size=96)
    edit_weights(directory, lambda weights: weights.update(more=torch.ones(2)))
    refused(directory, "a tensor more that")


def test_safetensors(directory):
    expected = checkpoints.load(directory).model()(TOKENS)
    weights = torch.load(directory / "lit_model.pth", weights_only=True)
    save_file(weights, directory / "model.safetensors")
    (directory / "lit_model.pth").unlink()
    assert torch.equal(checkpoints.load(directory).model()(TOKENS), expected)
    whole = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(whole[:-10])
    refused(directory, "model.safetensors cannot be read")


def test_a_checkpoint_of_litgpts_own_training(directory):
    expected = checkpoints.load(directory).hash
    weights = torch.load(directory / "lit_model.pth", weights_only=True)
    torch.save({"model": weights}, directory / "lit_model.pth")
    assert checkpoints.load(directory).hash == expected


def test_tied_weights_are_one_tensor(teacher, tmp_path):
    loaded = checkpoints.load(teacher("llama-tied"))
    assert loaded.tied
    assert loaded.architecture.tied
    head, embedding = (loaded.weights[n] for n in (checkpoints.HEAD, checkpoints.EMBEDDING))
    assert head is embedding
    model = loaded.model()
    checkpoints.save(tmp_path / "again", model)
    again = checkpoints.load(tmp_path / "again")
    assert again.tied
    assert again.hash == loaded.hash
    sizes = [(d / "lit_model.pth").stat().st_size for d in (tmp_path / "again", loaded.path)]
    assert max(sizes) < 4 * sum(p.numel() for p in model.parameters()) * 1.05


def test_mapped_weights_are_those_of_the_file_and_leave_it_as_it_is(teacher):
    stored = checkpoints.load(teacher("llama"))
    model, mapped = stored.model(), stored.mapped_model()
    assert mapped.lm_head.weight.data_ptr() == stored.weights["lm_head.weight"].data_ptr()
    tokens = torch.arange(6)[None]
    assert torch.equal(mapped(tokens), model(tokens))
    with torch.no_grad():
        mapped.lm_head.weight += 1
    assert checkpoints.load(stored.path).hash == Network.of(model).hash


def test_the_hash_is_of_content(directory):
    first = checkpoints.load(directory).hash
    shutil.copytree(directory, directory.with_name("copy"))
    assert checkpoints.load(directory.with_name("copy")).hash == first
    edit_weights(directory, lambda weights: weights["transformer.ln_f.weight"][0].add_(1e-6))
    assert checkpoints.load(directory).hash != first


def test_layerwise_checkpoints(directory, tmp_path):
    loaded = checkpoints.load(directory)
    write_tokenizer(directory)
    subnet = random_subnet(loaded.architecture.dimensions, np.random.default_rng(0), uniform=False)
    model = extract(loaded, subnet)
    out = tmp_path / "winner"
    checkpoints.save(out, model, tokenizer_from=directory, origin={"candidate": subnet.id})
    assert checkpoints.load_config(out)[1] == subnet.widths
    assert checkpoints.load(out).tokenizer is not None
    assert (out / "tokenizer_config.json").is_file()
    origin = yaml.safe_load((out / "subnet.json").read_text())
    assert origin["candidate"] == subnet.id
    assert origin["tied"] is False
    assert tuple(origin["widths"]["groups"]) == subnet.widths.groups

    (out / "blocks.yaml").write_text("blocks: 3")
    refused(out, "blocks.yaml is not a model config")
    (out / "blocks.yaml").write_text("")
    refused(out, "blocks.yaml is not a model config")


def test_vocabulary(directory):
    assert checkpoints.load(directory).vocabulary == 112
    write_tokenizer(directory, vocabulary=300)  # larger than the embedding: its rows decide
    assert checkpoints.load(directory).vocabulary == 112


def test_saving_is_whole_or_not_at_all(directory, tmp_path):
    model = checkpoints.load(directory).model()
    with pytest.raises(UserError, match="exists already"):
        checkpoints.save(directory, model)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        checkpoints.save(tmp_path / "file" / "out", model)
    (tmp_path / "empty").mkdir()
    checkpoints.save(tmp_path / "empty", model, dtype=torch.bfloat16)
    stored = checkpoints.load(tmp_path / "empty").weights.values()
    assert {tensor.dtype for tensor in stored} == {torch.bfloat16}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "teacher"]


def test_a_full_disk(directory, tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(mount)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        loaded = checkpoints.load(directory)
        full = Subnet.full(loaded.architecture.dimensions)
        model = extract(loaded, full)
        with pytest.raises(UserError, match="cannot write") as caught:
            checkpoints.save(mount / "out", model)
        assert "\n" not in str(caught.value)
        assert not list(mount.iterdir())
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


class Casts(TorchDispatchMode):
    """The shapes of all tensors in memory that are cast."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and not args[0].is_meta:
            self.shapes.append(args[0].shape)
        return func(*args, **(kwargs or {}))


def test_nothing_is_cast_before_it_is_loaded(directory):
    """Of a model in half the precision the whole is never there in full."""
    stored = checkpoints.load(directory)
    with Casts() as casts:
        half = stored.model(torch.bfloat16)
    assert stored.weights["lm_head.weight"].shape not in casts.shapes
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    whole = stored.model()
    for name, weight in half.state_dict().items():
        assert torch.equal(weight, whole.state_dict()[name].bfloat16())
    for name, buffer in half.named_buffers():
        assert torch.equal(buffer, whole.get_buffer(name))
        assert buffer.dtype == torch.float32
