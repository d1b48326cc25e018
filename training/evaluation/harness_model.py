"""A checkpoint as lm-evaluation-harness's own class for models of transformers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig, PreTrainedTokenizerFast

from evo.errors import UserError
from evo.huggingface.export_checkpoint import portable_model
from evo.model.checkpoint import Checkpoint


class HarnessModel(HFLM):
    """What `HFLM` makes of the export of a checkpoint, without writing the export.

    The model sees `max_length` tokens, by default its block size. Log-likelihoods are computed in
    float32 whatever the weights' dtype.

    Raises:
        UserError: there is no tokenizer, or the model does not take `max_length` tokens.
    """

    def __init__(
        self,
        stored: Checkpoint,
        *,
        dtype: torch.dtype,
        batch_size: int,
        device: str,
        max_length: int | None = None,
    ) -> None:
        if stored.tokenizer is None:
            raise UserError(f"{stored.path} has no tokenizer, but tasks are text")
        most = stored.config.block_size
        if max_length is not None and not 1 <= max_length <= most:
            raise UserError(f"--max-length {max_length} cannot be: give 1 to {most}")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(stored.path, local_files_only=True)
        tokenizer.eos_token_id = stored.tokenizer.end_of_text
        model = portable_model(stored, dtype, device)
        if (stored.path / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(stored.path)
        logger = logging.getLogger(HFLM.__module__)
        logger.setLevel(logging.ERROR)  # it warns of every model that is no path
        super().__init__(
            model,
            backend="causal",
            tokenizer=tokenizer,
            max_length=max_length or most,
            batch_size=batch_size,
            softmax_dtype="float32",
        )
        logger.setLevel(logging.NOTSET)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], *args: Any, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and whether it is the greedy one.

        Raises:
            UserError: a continuation has no tokens, or more than the model takes.
        """
        for texts, context, continuation in requests:
            if not context:  # the harness scores a context's trailing white space with what follows
                raise UserError(
                    f"a task asks for {texts[1]!r} after white space alone ({texts[0]!r}), and the "
                    "tokenizer puts no BOS before a text: leave such rows out of the task"
                )
            if not continuation:
                raise UserError(
                    f"a task asks for {texts[1]!r} after {texts[0][-40:]!r}, but the tokenizer "
                    "leaves no token of its own to it"
                )
            if len(continuation) > self.max_length:
                raise UserError(f"a continuation is beyond the model's {self.max_length} tokens")
        return super()._loglikelihood_tokens(requests, *args, **kwargs)
