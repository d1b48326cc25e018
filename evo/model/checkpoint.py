"""Checkpoint directories in litgpt's layout: read, checked against their config, and written.

`lit_model.pth` (or `model.safetensors`), `model_config.yaml`, tokenizer files; a layer-wise
network has besides `blocks.yaml`, the widths of each block; an extracted one `subnet.json`, where
it came from.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from evo.errors import UserError, first_line
from evo.genome.subnet import Widths
from evo.model import tokenizer as tokenizers
from evo.model.layerwise_gpt import (
    architecture_of,
    is_tied,
    refuse_unknown_parts,
    tensor_shapes,
    widths_of,
)
from evo.model.litgpt import GPT, Config, save_config
from evo.model.network import EMBEDDING, HEAD, Network
from evo.model.tokenizer import Tokenizer, load_tokenizer
from evo.storage.files import atomic_directory

WEIGHTS, SAFE_WEIGHTS = "lit_model.pth", "model.safetensors"

TIED = "tie_word_embeddings"
"""What `hf_config` in model_config.yaml, and a Hugging Face config.json, calls an embedding and an
output head that are one matrix. Checkpoints that litgpt made do not say."""


@dataclass(frozen=True)
class Checkpoint(Network):
    """A network in memory, on the CPU, in the dtype in which it was stored.

    Attributes:
        path: the directory.
        tokenizer: None where the directory has none.
    """

    path: Path
    tokenizer: Tokenizer | None

    @property
    def vocabulary(self) -> int:
        """Token ids are below this: the tokenizer's own size, else the padded one."""
        padded = self.config.padded_vocab_size
        return min(self.tokenizer.vocabulary, padded) if self.tokenizer else padded


def load_config(directory: Path) -> tuple[Config, Widths]:
    """A checkpoint's config and widths, without its weights.

    Raises:
        UserError: no such directory, no config in it, or one that cannot be read.
    """
    if not directory.is_dir():
        raise UserError(
            f"{directory} is no directory: name a checkpoint directory (`evo import` makes one)"
        )
    path = directory / "model_config.yaml"
    if not path.is_file():
        hint = (
            " (it looks like a Hugging Face checkpoint: `evo import` it first)"
            if (directory / "config.json").is_file()
            else ""
        )
        raise UserError(f"{directory} has no model_config.yaml{hint}")
    try:
        config = Config.from_file(path)
        widths = architecture_of(config, tied=False).full_widths
        if (blocks := directory / "blocks.yaml").is_file():
            path = blocks
            listed = yaml.safe_load(blocks.read_text())["blocks"]
            widths = Widths(
                config.n_embd,
                tuple(int(block["n_query_groups"]) for block in listed),
                tuple(int(block["intermediate_size"]) for block in listed),
            )
    except (
        TypeError,
        ValueError,
        KeyError,
        AssertionError,
        AttributeError,
        RecursionError,
        OSError,
        yaml.YAMLError,
    ) as error:
        raise UserError(
            f"{path} is not a model config that litgpt can read: {first_line(error)}"
        ) from error
    try:
        refuse_unknown_parts(config)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from error
    return config, widths


def load(directory: Path) -> Checkpoint:
    """A checkpoint, its weights checked against its config.

    Raises:
        UserError: anything missing, damaged, or not fitting together.
    """
    directory = Path(directory)
    config, widths = load_config(directory)
    weights, path = _read_weights(directory)
    expected = tensor_shapes(config, widths)
    for name, shape in expected.items():
        if name not in weights:
            raise UserError(f"{path} lacks the tensor {name} that model_config.yaml asks for")
        if tuple(weights[name].shape) != shape:
            raise UserError(
                f"{path}: {name} is {tuple(weights[name].shape)}, but model_config.yaml "
                f"asks for {shape}"
            )
    if surplus := sorted(set(weights) - set(expected)):
        raise UserError(f"{path} has a tensor {surplus[0]} that model_config.yaml does not know")
    tied = _is_tied(config, weights, path)
    if tied:
        weights[HEAD] = weights[EMBEDDING]
    return Checkpoint(
        config, widths, weights, tied, path=directory, tokenizer=load_tokenizer(directory)
    )


def _is_tied(config: Config, weights: dict[str, Tensor], path: Path) -> bool:
    said = config.hf_config.get(TIED) if isinstance(config.hf_config, dict) else None
    if said is False:
        return False
    equal = torch.equal(weights[EMBEDDING], weights[HEAD])
    if said is True and not equal:
        raise UserError(f"{path}: {HEAD} is not {EMBEDDING}, but model_config.yaml says {TIED}")
    return equal and not config.lm_head_bias


def _read_weights(directory: Path) -> tuple[dict[str, Tensor], Path]:
    path = directory / WEIGHTS
    if not path.is_file():
        path = directory / SAFE_WEIGHTS
    if not path.is_file():
        raise UserError(f"{directory} has no {WEIGHTS} and no {SAFE_WEIGHTS}")
    try:
        if path.name == SAFE_WEIGHTS:
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            weights = weights.get("model", weights)  # litgpt's own training checkpoints nest it
        if not all(isinstance(tensor, Tensor) for tensor in weights.values()):
            raise ValueError("it holds other things than tensors")
    except Exception as error:  # torch, zipfile and safetensors each raise kinds of their own
        raise UserError(
            f"{path} cannot be read, it is damaged or no checkpoint: {first_line(error)}"
        ) from error
    return weights, path


def save(
    directory: Path,
    model: GPT,
    *,
    tokenizer_from: Path | None = None,
    origin: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a network as a checkpoint directory, whole or not at all.

    Args:
        directory: must not exist yet, or be empty.
        model: either kind of network.
        tokenizer_from: a checkpoint directory whose tokenizer files are copied.
        origin: written as `subnet.json`, with `tied` added.
        dtype: of the stored floating-point tensors; by default as they are.

    Raises:
        UserError: the directory exists, or cannot be written.
    """
    widths = widths_of(model)
    weights = {name: t.detach().to("cpu", dtype) for name, t in model.state_dict().items()}
    if is_tied(model):
        weights[HEAD] = weights[EMBEDDING]
    with atomic_directory(directory) as temporary:
        # Given a name, torch writes by itself and hides why it cannot.
        with (temporary / WEIGHTS).open("wb") as file:
            torch.save(weights, file)
        described_from = {**model.config.hf_config, TIED: is_tied(model)}
        save_config(replace(model.config, hf_config=described_from), temporary)
        if not widths.is_uniform:
            blocks = [
                {"n_query_groups": g, "intermediate_size": f}
                for g, f in zip(widths.groups, widths.neurons, strict=True)
            ]
            (temporary / "blocks.yaml").write_text(yaml.safe_dump({"blocks": blocks}))
        if tokenizer_from is not None:
            for name in tokenizers.FILES:
                if (tokenizer_from / name).is_file():
                    shutil.copy(tokenizer_from / name, temporary / name)
        if origin is not None:
            sizes = asdict(replace(widths, head_size=model.config.head_size))
            described = {**origin, "tied": is_tied(model), "widths": sizes}
            (temporary / "subnet.json").write_text(json.dumps(described, indent=2) + "\n")
