"""The networks of a run as modules with one forward, in which data parallelism has its hooks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evo.model.layerwise_gpt import hidden_states
from evo.model.litgpt import GPT
from evo.model.nll import summed_nll
from training.losses.chunked_loss import Teacher, head_of, summed_losses
from training.losses.settings import LossSettings


class Student(nn.Module):
    """The network that is trained, with its loss: it maps tokens to summed losses."""

    def __init__(self, model: GPT, settings: LossSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    def forward(self, tokens: Tensor, teacher: Teacher | None) -> Tensor:
        """Total loss, cross-entropy and divergence, summed over targets, shape [3].

        Args:
            tokens: token ids, shape [B, T].
            teacher: the teacher at the B * (T-1) positions that have a target; None without it.
        """
        hidden = hidden_states(self.model, tokens[:, :-1]).flatten(0, 1)
        targets = tokens[:, 1:].flatten()
        losses = summed_losses(hidden, head_of(self.model), targets, self.settings, teacher)
        return torch.stack(losses)

    def summed_nll(self, blocks: NDArray[Any], micro_batch: int) -> NDArray[np.float64]:
        """The summed NLL of each block, see `evo.model.nll.summed_nll`."""
        return summed_nll(self.model, blocks, micro_batch=micro_batch)
