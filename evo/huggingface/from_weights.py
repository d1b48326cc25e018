"""A Hugging Face checkpoint's weights: its files read, and its tensors under litgpt's names.

litgpt's own `copy_weights_*` do the renaming; they know some families' biases by no name, which
are renamed here.
"""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from evo.errors import UserError, first_line
from evo.genome.subnet import Widths
from evo.huggingface.from_config import family_of_source, is_tied_source
from evo.huggingface.from_export import MODEL_TYPE
from evo.huggingface.source_config import SourceConfig
from evo.model.layerwise_gpt import architecture_of, tensor_shapes
from evo.model.litgpt import Config, convert_hf_checkpoint
from evo.model.network import EMBEDDING, HEAD
from evo.storage.strict_json import loads

LAYOUTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""A file with all weights, and the index of several, in the order in which transformers looks for
them. Other files, such as an average of the weights or shards of an earlier save, do not count."""

SHARDS = ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin")
"""The names of the files to which transformers' indices point."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

NO_WEIGHTS = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")
"""Buffers of older versions of transformers, which are no weights."""

BIASES = {
    ".self_attn.o_proj.bias": ".attn.proj.bias",
    ".mlp.gate_proj.bias": ".mlp.fc_1.bias",
    ".mlp.up_proj.bias": ".mlp.fc_2.bias",
    ".mlp.down_proj.bias": ".mlp.proj.bias",
}

COPY: dict[str, Callable[..., None]] = {
    # Llama's query, key and value biases are those of Qwen2: litgpt's Llama function has none.
    "llama": convert_hf_checkpoint.copy_weights_qwen_2_5,
    "mistral": convert_hf_checkpoint.copy_weights_qwen_2_5,
    "qwen2": convert_hf_checkpoint.copy_weights_qwen_2_5,
    "qwen3": convert_hf_checkpoint.copy_weights_qwen_3,
    "olmo2": convert_hf_checkpoint.copy_weights_olmo2,
    "gemma": convert_hf_checkpoint.copy_weights_qwen_2_5,
}
COPY_BY_NAME: dict[str, Callable[..., None]] = {
    "gemma2": convert_hf_checkpoint.copy_weights_gemma_2,
    "gemma3_text": convert_hf_checkpoint.copy_weights_gemma_3,
}
"""The functions that do not look at a config."""


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its Hugging Face name, mapped from the files, not copied.

    Raises:
        UserError: no weights, a shard that is missing or damaged, or tensors of a dtype that is
            not in `DTYPES`.
    """
    weights: dict[str, Tensor] = {}
    for path in _files(directory):
        if not path.is_file():
            raise UserError(f"{path} is missing: the index of the weights names it")
        try:
            weights.update(_read_file(path))
        except Exception as error:  # torch, zipfile and safetensors each raise kinds of their own
            raise UserError(
                f"{path} cannot be read, it is damaged or no checkpoint: {first_line(error)}"
            ) from error
    for name, tensor in weights.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"{directory}: {name} is no tensor")
        if tensor.dtype not in DTYPES and not name.endswith(NO_WEIGHTS):
            raise UserError(
                f"{directory}: {name} is {tensor.dtype}: float32, bfloat16 or float16 is needed"
            )
    return weights


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    # torch's format from before 1.6 is no zip file, and cannot be mapped
    mapped = zipfile.is_zipfile(path)
    return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)


def _files(directory: Path) -> list[Path]:
    for single, index in LAYOUTS:
        if (path := directory / single).is_file():
            return [path]
        if (path := directory / index).is_file():
            try:
                shards = loads(path.read_bytes())["weight_map"].values()
                return [directory / name for name in sorted(set(shards))]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{path} is no index of weights (an object `weight_map`)"
                ) from error
    names = ", ".join(name for layout in LAYOUTS for name in layout)
    raise UserError(f"{directory} has no weights: one of {names} is needed")


def litgpt_weights(
    source: SourceConfig,
    config: Config,
    weights: dict[str, Tensor],
    dtype: torch.dtype | None,
    widths: Widths | None = None,
) -> dict[str, Tensor]:
    """The tensors under litgpt's names, checked against the config.

    `weights` are by their Hugging Face names; with a dtype of None each keeps its own. `widths` are
    by default those of a uniform network.

    Returns:
        Every tensor that the config asks for; tied ones are one tensor under two names.

    Raises:
        UserError: a tensor is missing, unknown, or of another shape than the config asks for.
    """
    directory, family, tied = source.path.parent, family_of_source(source), is_tied_source(source)
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if family == "gpt_neox":
        head, embedding = "embed_out.weight", "gpt_neox.embed_in.weight"
    if family == MODEL_TYPE:
        head, embedding = HEAD, EMBEDDING
    weights = {n: t for n, t in weights.items() if not n.endswith(NO_WEIGHTS)}
    weights = _with_prefix(weights, embedding, head)
    for name in (embedding,) if tied else (embedding, head):
        if name not in weights:
            raise UserError(f"{directory}: the weights lack the tensor {name}")
    if tied and head in weights and not torch.equal(weights.pop(head), weights[embedding]):
        raise UserError(
            f"{directory}: {source.path.name} says tie_word_embeddings, "
            f"but {head} is not {embedding}"
        )

    widths = widths or architecture_of(config, tied=False).full_widths
    converted: dict[str, Tensor] = {}
    if family == MODEL_TYPE:
        converted = {name: tensor.to(dtype or tensor.dtype) for name, tensor in weights.items()}
        weights = {}
    for name in list(weights):
        for suffix, ours in BIASES.items():
            if name.endswith(suffix):
                layer = name.removeprefix("model.layers.").removesuffix(suffix)
                tensor = weights.pop(name)
                converted[f"transformer.h.{layer}{ours}"] = tensor.to(dtype or tensor.dtype)
    try:
        if weights:
            _copy_function(family, config)(converted, weights, dtype=dtype)
    except KeyError as error:
        name = str(error.args[0]).replace("{}", "*")
        raise UserError(
            f"{directory}: the weights have a tensor {name} that no {family} model has"
        ) from error
    except RuntimeError as error:  # query, key and value rows that cannot be split by head
        raise UserError(
            f"{directory}: the weights do not match config.json: {first_line(error)}"
        ) from error
    if tied:
        converted[HEAD] = converted[EMBEDDING]
    _check(directory, config, widths, converted)
    return converted


def _copy_function(family: str, config: Config) -> Callable[..., None]:
    if family == "gpt_neox":
        return partial(convert_hf_checkpoint.copy_weights_gpt_neox, config)
    # A holder of queries, keys and values until all three of a layer have been seen.
    if family in COPY_BY_NAME:
        return partial(COPY_BY_NAME[family], {})
    return partial(COPY[family], config, defaultdict(dict))


def _with_prefix(weights: dict[str, Tensor], embedding: str, head: str) -> dict[str, Tensor]:
    """The tensors by the names of the class with a head, where they were saved without it.

    transformers' base models, such as `LlamaModel`, save names without the prefix.
    """
    prefix = embedding.split(".")[0] + "."
    if any(name.startswith(prefix) for name in weights):
        return weights
    return {name if name == head else prefix + name: t for name, t in weights.items()}


def _check(directory: Path, config: Config, widths: Widths, weights: dict[str, Tensor]) -> None:
    layers = {name.split(".")[2] for name in weights if name.startswith("transformer.h.")}
    if len(layers) != config.n_layer:  # checked before a network of so many layers is built
        raise UserError(
            f"{directory}: the weights have {len(layers)} layers, but config.json says "
            f"{config.n_layer}"
        )
    try:
        expected = tensor_shapes(config, widths)
    except (RuntimeError, OverflowError, TypeError) as error:  # sizes that no tensor can have
        raise UserError(
            f"{directory}: config.json describes no network: {first_line(error)}"
        ) from error
    for name, shape in expected.items():
        if name not in weights:
            raise UserError(
                f"{directory}: the weights lack what litgpt calls {name}, "
                f"which config.json asks for, of shape {tuple(shape)}"
            )
        if tuple(weights[name].shape) != shape:
            raise UserError(
                f"{directory}: the weights do not match config.json: what litgpt calls {name} is "
                f"{tuple(weights[name].shape)}, but {tuple(shape)} is asked for"
            )
    if surplus := sorted(set(weights) - set(expected)):
        raise UserError(
            f"{directory}: the weights have what litgpt calls {surplus[0]}, "
            "which config.json does not ask for"
        )
