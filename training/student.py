"""The network that is trained, with its loss."""

from __future__ import annotations

import torch
from litgpt.model import GPT
from torch import Tensor, nn

from evo.model import hidden_states
from training.losses import Head, head_of, summed_losses
from training.plan import LossSettings


class Student(nn.Module):
    """Tokens to summed losses, so that `DistributedDataParallel` sees one forward.

    Args:
        model: what is trained.
        settings: of the loss.
    """

    def __init__(self, model: GPT, settings: LossSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    def forward(
        self, tokens: Tensor, teacher_hidden: Tensor | None, teacher_head: Head | None
    ) -> Tensor:
        """Total, cross-entropy and KL divergence, summed over targets, shape [3].

        Args:
            tokens: shape [B, T].
            teacher_hidden: shape [B, T-1, teacher's channels].
            teacher_head: the teacher's.
        """
        hidden = hidden_states(self.model, tokens[:, :-1]).flatten(0, 1)
        if teacher_hidden is not None:
            teacher_hidden = teacher_hidden.flatten(0, 1)
        losses = summed_losses(
            hidden,
            head_of(self.model),
            tokens[:, 1:].flatten(),
            self.settings,
            teacher_hidden,
            teacher_head,
        )
        return torch.stack(losses)
