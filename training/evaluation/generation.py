"""Greedy continuations of several prompts at once, with litgpt's cache of keys and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from evo.errors import UserError
from evo.model.layerwise_gpt import head_logits
from evo.model.litgpt import GPT


@torch.inference_mode()
def greedy(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    count: int,
    ended: Callable[[list[int]], bool] = lambda tokens: False,
) -> list[list[int]]:
    """The likeliest tokens after each prompt.

    Prompts of different lengths are padded on the right. Every row writes to positions of its own,
    so that what padding left in the cache is overwritten before anything looks at it.

    Args:
        model: either kind of network, in evaluation, on the device where it is to run.
        prompts: token ids, at least one each.
        count: how many tokens to generate at most.
        ended: given the tokens generated for a prompt so far, whether these are all.

    Returns:
        The generated tokens of each prompt.

    Raises:
        UserError: prompt and continuation are longer than the model takes.
    """
    weight, rows = model.lm_head.weight, len(prompts)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=weight.device)
    longest = max(map(len, prompts))
    if longest + count > model.max_seq_length:
        raise UserError(
            f"a prompt of {longest} tokens and {count} more are beyond the model's "
            f"{model.max_seq_length}"
        )
    padded = pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True)
    model.set_kv_cache(rows, longest + count, device=weight.device, dtype=weight.dtype)
    try:
        generated: list[list[int]] = [[] for _ in prompts]
        running = set(range(rows))
        places = torch.arange(longest, device=weight.device).expand(rows, -1)
        hidden = _advance(model, padded.to(weight.device), places, longest)
        hidden = hidden[torch.arange(rows, device=weight.device), lengths - 1]
        for step in range(count):
            tokens = head_logits(model, hidden).argmax(-1)
            known = tokens.tolist()  # all at once: each would wait for the device
            for row in sorted(running):
                generated[row].append(known[row])
                if ended(generated[row]):
                    running.remove(row)
            if not running or step == count - 1:
                break
            places = (lengths + step)[:, None]
            hidden = _advance(model, tokens[:, None], places, longest + step + 1)[:, 0]
        return generated
    finally:
        model.clear_kv_cache()


def _advance(model: GPT, tokens: Tensor, places: Tensor, end: int) -> Tensor:
    """What the output head sees, with a cache: `hidden_states` at any positions.

    Args:
        model: with its cache set up.
        tokens: token ids, shape [B, T].
        places: their positions, shape [B, T].
        end: no position is so high.

    Returns:
        Shape [B, T, channels].
    """
    x = model.transformer.wte(tokens)
    if model.config.scale_embeddings:
        x = x * torch.tensor(model.config.n_embd**0.5, dtype=x.dtype)
    mask = model.mask_cache[0, 0][places][:, None, :, :end]
    for block in model.transformer.h:
        x = block(x, model.cos[places], model.sin[places], mask, places, end)
    return model.transformer.ln_f(x)
