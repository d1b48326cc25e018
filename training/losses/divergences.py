"""How far a student's distributions are from its teacher's, with the gradient to its logits.

The divergences, with the teacher's probabilities p, the student's q and m = (p + q) / 2 at each
position, are

- `forward-kl`: KL(p || q), the sum of p log(p / q) (Hinton et al. 2015).
- `reverse-kl`: KL(q || p), which lets the student leave out what it cannot have (Gu et al. 2024).
- `symmetric-kl`: the mean of both, half of Jeffreys' divergence.
- `jensen-shannon`: the mean of KL(p || m) and KL(q || m), at most log 2 (Lin 1991).

Over the teacher's k likeliest tokens (`top-k`), a distribution becomes that of k + 1 outcomes:
these tokens, and one for all others, whose probability is the sum of theirs, as in
`evo.model.kl` (tail `bucket`). A student then still pays for what it gives to tokens that the
teacher thinks unlikely. Or the others are left out and both distributions are renormalised over
the k, as is usual elsewhere (tail `renormalise`): nothing is then said about them, and a student
may give them any probability.

The temperature is that of the outcomes: their log-probabilities at temperature 1 are divided by it
and normalised again. Over the full vocabulary, and where the tail is left out, that is the same as
dividing the logits. With a bucket it is what can be said of a teacher of whom only the k outcomes
were kept, at any temperature.
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from training.losses.settings import DivergenceKind


class TopK(NamedTuple):
    """A teacher's likeliest tokens at some positions, at temperature 1.

    Attributes:
        log_probability: over the real vocabulary, falling, shape [positions, k].
        ids: of the tokens, integers, shape [positions, k].
        log_rest: logarithm of the probability of all other real tokens, shape [positions].
    """

    log_probability: Tensor
    ids: Tensor
    log_rest: Tensor

    def part(self, positions: slice) -> TopK:
        """The likeliest tokens at some of the positions."""
        return TopK(*(tensor[positions] for tensor in self))

    def to(self, device: torch.device) -> TopK:
        """The same on a device, with log-probabilities in float32."""
        values, ids, rest = (tensor.to(device) for tensor in self)
        return TopK(values.float(), ids, rest)

    def cut(self, k: int) -> TopK:
        """The first k tokens; the probability of the others is added to the rest."""
        dropped = torch.cat([self.log_probability[:, k:], self.log_rest[:, None]], 1)
        return TopK(self.log_probability[:, :k], self.ids[:, :k], dropped.logsumexp(1))


def top_k_of(logits: Tensor, k: int) -> TopK:
    """The likeliest tokens by a network's logits over the real vocabulary.

    Args:
        logits: shape [positions, vocabulary]; what it holds afterwards is undefined.
        k: less than the vocabulary.
    """
    normaliser = torch.logsumexp(logits, 1)
    largest, ids = logits.topk(k)
    # Not 1 minus what is kept, of which little but rounding would be left where that is near 1.
    rest = logits.scatter_(1, ids, -torch.inf).logsumexp(1)
    return TopK(largest - normaliser[:, None], ids, rest - normaliser)


def divergence(kind: DivergenceKind, teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """The divergence summed over positions, and its gradient to the student's logits.

    Where D has the derivative g_i to q_i, its derivative to logit j is q_j (g_j - sum of q_i g_i),
    and a constant in g makes no difference.

    Args:
        kind: which one, see above.
        teacher: log-probabilities, shape [positions, outcomes]; may be overwritten.
        student: log_softmax of its logits, same shape; may be overwritten.

    Returns:
        A scalar, and the gradient, shape [positions, outcomes].
    """
    if kind == "forward-kl":
        probability = teacher.exp()
        value = (teacher.sub_(student).mul_(probability)).sum()
        return value, student.exp_().sub_(probability)
    if kind == "reverse-kl":
        own = student.exp()
        return _weighted(own, student.sub_(teacher))
    own, probability = student.exp(), teacher.exp()
    if kind == "symmetric-kl":
        ratio = student - teacher
        forward = -(ratio * probability).sum()
        reverse, gradient = _weighted(own, ratio)
        return (forward + reverse) / 2, gradient.add_(own).sub_(probability).div_(2)
    mixture = torch.logaddexp(teacher, student).sub_(log(2))
    forward = (teacher.sub_(mixture).mul_(probability)).sum()
    reverse, gradient = _weighted(own, student.sub_(mixture))
    return (forward + reverse) / 2, gradient.div_(2)


def _weighted(own: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of q r over all outcomes, and q_j (r_j - sum of q_i r_i); overwrites `ratio`."""
    mean = (own * ratio).sum(1, keepdim=True)
    return mean.sum(), ratio.sub_(mean).mul_(own)
