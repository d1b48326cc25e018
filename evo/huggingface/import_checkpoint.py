"""`evo import`: a Hugging Face checkpoint to a teacher in litgpt's layout."""

from __future__ import annotations

import importlib.util
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evo.errors import UserError, first_line
from evo.genome.cost import parameters
from evo.huggingface.config import ImportConfig
from evo.huggingface.from_config import family_of_source, is_tied_source, litgpt_network
from evo.huggingface.from_export import MODEL_TYPE
from evo.huggingface.from_weights import LAYOUTS, SHARDS, litgpt_weights, read_weights
from evo.huggingface.source_config import SourceConfig
from evo.huggingface.tokenizer_files import tokenizer_files
from evo.model import checkpoint as checkpoints
from evo.model import tokenizer as tokenizers
from evo.model.checkpoint import Checkpoint
from evo.model.layerwise_gpt import architecture_of, build, tie
from evo.model.litgpt import Config
from evo.model.tokenizer import load_tokenizer
from evo.storage.files import refuse_occupied

logger = logging.getLogger("evo")

TOLERANCE = 1e-4
"""The largest allowed difference to transformers' logits, as a share of the largest logit or 1."""

CHECKED_ROWS, CHECKED_LENGTH = 2, 64


def import_checkpoint(config: ImportConfig) -> dict[str, Any]:
    """Write a teacher that computes what a Hugging Face checkpoint computes.

    Returns:
        What was imported: `checkpoint`, `out`, `family`, `parameters`, `tied`, `tokenizer`
        (whether there is one), `verified`, and `logit_difference`, the largest one to
        transformers' logits, None where they were not compared.

    Raises:
        UserError: the checkpoint cannot be found, read or said in a litgpt `Config`, its weights
            do not match its config, the logits differ, or `out` cannot be written. Nothing is
            left behind then.
    """
    refuse_occupied(config.out)
    directory = _locate(config.checkpoint, config.revision)
    source = SourceConfig.read(directory / "config.json")
    family, tied = family_of_source(source), is_tied_source(source)
    name = directory.resolve().name if Path(config.checkpoint).is_dir() else config.checkpoint
    dtype = None if config.dtype == "keep" else getattr(torch, config.dtype)
    with tokenizer_files(source) as files:
        tokenizer = load_tokenizer(files)
        vocabulary = tokenizer.vocabulary if tokenizer else None
        litgpt, widths = litgpt_network(source, vocabulary, name)
        weights = litgpt_weights(source, litgpt, read_weights(directory), dtype, widths)
        imported = Checkpoint(litgpt, widths, weights, tied, path=directory, tokenizer=tokenizer)
        if tokenizer is None:
            logger.warning(
                "%s has no tokenizer: the teacher will work with token ids only", directory
            )
        difference = _verify(source, imported, dtype) if config.verify else None
        with torch.device("meta"):
            model = build(litgpt, widths)
        model.load_state_dict(weights, assign=True)
        if tied:
            tie(model)
        checkpoints.save(config.out, model, tokenizer_from=files)
    return {
        "checkpoint": config.checkpoint,
        "out": str(config.out),
        "family": family,
        "parameters": parameters(architecture_of(litgpt, tied=tied), widths),
        "tied": tied,
        "tokenizer": tokenizer is not None,
        "verified": difference is not None,
        "logit_difference": difference,
    }


def _locate(checkpoint: str, revision: str | None) -> Path:
    """The directory of a checkpoint, downloaded where it is a repo id."""
    directory = Path(checkpoint).expanduser()
    if directory.is_dir():
        if (directory / checkpoints.WEIGHTS).is_file():
            raise UserError(
                f"{directory} is a litgpt checkpoint: use it as a teacher without importing it"
            )
        return directory
    if directory.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", checkpoint):
        raise UserError(
            f"{checkpoint} is no directory: name a Hugging Face checkpoint directory, "
            "or a repo id such as EleutherAI/pythia-410m"
        )
    from huggingface_hub import snapshot_download

    settings = ["*.json", *tokenizers.FILES]
    try:
        for (single, _), shards in zip(LAYOUTS, SHARDS, strict=True):  # not both: twice the size
            directory = Path(
                snapshot_download(
                    checkpoint,
                    revision=revision,
                    allow_patterns=[*settings, single, shards],
                    ignore_patterns=["*/*"],
                )
            )
            if (directory / single).is_file() or any(directory.glob(shards)):
                break
    except Exception as error:  # the hub and the HTTP library under it raise kinds of their own
        raise UserError(
            f"{checkpoint} is no directory, and cannot be fetched from the Hugging Face hub: "
            f"{first_line(error)}"
        ) from error
    return directory


def _verify(source: SourceConfig, imported: Checkpoint, dtype: torch.dtype | None) -> float | None:
    """The largest difference to transformers' logits, or None where it is not installed.

    Raises:
        UserError: the difference is above `TOLERANCE`.
    """
    tokens = tokens_to_compare(imported.config)
    if tokens is None:
        return None
    with torch.inference_mode():
        expected = transformers_logits(source, tokens, dtype)
        logits = imported.model()(tokens)
    if not expected.isfinite().all():
        raise UserError(f"{imported.path}: its logits are not finite: the weights are no good")
    difference = (logits - expected).abs().max().item()
    if not difference <= TOLERANCE * max(1.0, expected.abs().max().item()):  # NaN fails too
        raise UserError(
            f"{imported.path}: imported, its logits differ from transformers' by {difference:.3g}: "
            "this checkpoint computes something that evo does not know"
        )
    return difference


def tokens_to_compare(config: Config) -> Tensor | None:
    """Random token ids, shape [B, T], on which logits are compared with those of transformers.

    Returns:
        None, with a warning, where transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        logger.warning("the logits were not compared: transformers is not installed")
        return None
    size = CHECKED_ROWS, min(CHECKED_LENGTH, config.block_size)
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(config.padded_vocab_size, size=size))


def transformers_logits(
    source: SourceConfig, tokens: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """What transformers computes with a checkpoint, in float32.

    Args:
        source: the checkpoint's config.
        tokens: token ids, shape [B, T].
        dtype: what the weights are rounded to first.

    Returns:
        Shape [B, T, V].

    Raises:
        UserError: transformers cannot load the checkpoint.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    directory = source.path.parent
    model_class: Any
    config_class: Any
    if family_of_source(source) == MODEL_TYPE:
        from evo.huggingface.modeling_evo import EvoConfig as config_class
        from evo.huggingface.modeling_evo import EvoForCausalLM as model_class
    else:
        config_class, model_class = AutoConfig, AutoModelForCausalLM
    try:
        config = config_class.from_pretrained(directory, local_files_only=True)
        if family_of_source(source) == "gpt_neox" and "rotary_pct" not in source.fields:
            # transformers 5.3 writes the share that is rotated, but reads back 0.25.
            written = source.fields.get("rope_parameters") or {}
            config.rope_parameters.update(written)
        model = model_class.from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            attn_implementation="eager",  # the other ones leave soft capping out
        )
    except Exception as error:  # of an odd config.json each class raises kinds of its own
        raise UserError(f"{directory}: transformers cannot load it: {first_line(error)}") from error
    if dtype is not None:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype).float()
    return model.eval()(tokens).logits
