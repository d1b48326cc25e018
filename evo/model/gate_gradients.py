"""How the loss of a subnet changes with gates on the teacher's units, by one backward pass.

The gated network is the teacher without the layers that the subnet drops. A gate multiplies what a
unit gives to those that read it: 1 where the subnet keeps the unit, 0 where it does not, so that
the loss is that of the network that is cut. Its derivative by a gate says to first order what
dropping a kept unit, or keeping a dropped one, would change (Molchanov et al. 2019, Importance
Estimation for Neural Network Pruning, section 3, there for kept units).

A norm over gated units takes its statistics from those that are kept, as the norm of the cut
network does, and its output is gated. A residual channel is gated where it is read and nowhere
else: if it were gated where it is written, too, the derivative of a dropped channel would be 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from evo.genome.operators.gate_swaps import GateGradients
from evo.genome.subnet import Subnet
from evo.model.extract import extract
from evo.model.layerwise_gpt import embedded, run_block
from evo.model.litgpt import GPT, Block, do_softcapping
from evo.model.network import Network
from evo.model.nll import in_parts


class Gates:
    """The gates of a subnet: float32, with gradients.

    Attributes:
        channels: shape [D].
        groups: of each kept layer, shape [kept layers, G].
        neurons: likewise, shape [kept layers, F].
    """

    def __init__(self, subnet: Subnet, device: torch.device | str) -> None:
        kept = subnet.layers
        self.channels, self.groups, self.neurons = (
            torch.tensor(mask, dtype=torch.float32, device=device, requires_grad=True)
            for mask in (subnet.channels, subnet.groups[kept], subnet.neurons[kept])
        )


class GatedNorm(nn.Module):
    """A norm over units that are gated.

    Args:
        norm: a LayerNorm or litgpt's RMSNorm; an identity where there is none.
        gates: of the units that it is over, shape [n]; a unit may be several channels.
        reads: whether its output is gated, too; what a norm writes is gated by its readers.
    """

    def __init__(self, norm: nn.Module, gates: Tensor, *, reads: bool) -> None:
        super().__init__()
        self.norm, self._gates, self._reads = norm, gates, reads

    def forward(self, x: Tensor) -> Tensor:
        normed = x if isinstance(self.norm, nn.Identity) else self._normed(_wide(x)).to(x.dtype)
        return _times(normed, self._gates) if self._reads else normed

    def _normed(self, x: Tensor) -> Tensor:
        norm, gates = self.norm, _each(self._gates, x)
        count = gates.sum()
        if isinstance(norm, nn.LayerNorm):
            x = x - (x * gates).sum(-1, keepdim=True) / count
        square = (x**2 * gates).sum(-1, keepdim=True) / count
        x = x * torch.rsqrt(square + norm.eps)  # type: ignore[operator]
        if norm.weight is not None:
            weight = _wide(norm.weight)  # type: ignore[arg-type]
            x = x * (1 + weight if getattr(norm, "add_unit_offset", False) else weight)
        if getattr(norm, "bias", None) is not None:
            x = x + norm.bias  # type: ignore[operator]
        return x


def gate_gradients(
    teacher: Network,
    subnet: Subnet,
    blocks: NDArray[np.integer],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> GateGradients:
    """The derivatives of the mean NLL by the gates, at a subnet's masks.

    Args:
        teacher: a uniform network, whose weights are only read, and not copied where they are kept
            in `dtype` on `device`.
        subnet: masks over this teacher.
        blocks: token ids, shape [N, T]; they run through the network one after the other.
        dtype: of weights and activations.
        device: where the network is to run.
    """
    gates = Gates(subnet, device)
    model = gated(teacher, subnet, gates, blocks.shape[1], dtype=dtype, device=device)
    targets = len(blocks) * (blocks.shape[1] - 1)
    with _deterministic(device):
        for row in torch.from_numpy(blocks.astype(np.int64)).to(device):
            _backward(model, row[None], targets)
    groups, neurons = (np.zeros(m.shape, np.float32) for m in (subnet.groups, subnet.neurons))
    groups[subnet.layers], neurons[subnet.layers] = _array(gates.groups), _array(gates.neurons)
    return GateGradients(_array(gates.channels), groups, neurons)


def gated(
    teacher: Network,
    subnet: Subnet,
    gates: Gates,
    sequence_length: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> GPT:
    """The teacher without the layers that a subnet drops, its other units gated.

    Arguments are those of `gate_gradients`; `sequence_length` is the longest sequence it is to see.
    """
    wide = Subnet.full(subnet.dimensions)
    wide = replace(wide, layers=subnet.layers, head_size=subnet.head_size)
    model = extract(
        teacher, wide, dtype=dtype, device=device, sequence_length=sequence_length, copy=False
    ).requires_grad_(False)
    # Embeddings are scaled by the root of the channels that are kept.
    model.config = replace(model.config, n_embd=int(subnet.channels.sum()))
    blocks = zip(model.transformer.h, gates.groups, gates.neurons, strict=True)
    for block, groups, neurons in blocks:
        _gate_block(block, gates.channels, groups, neurons)
    model.transformer.ln_f = GatedNorm(model.transformer.ln_f, gates.channels, reads=True)
    return model


def _gate_block(block: Block, channels: Tensor, groups: Tensor, neurons: Tensor) -> None:
    for name in ("norm_1", "norm_2", "post_attention_norm", "post_mlp_norm"):
        norm, reads = getattr(block, name), name.startswith("norm")
        if norm is not None and (reads or not isinstance(norm, nn.Identity)):
            setattr(block, name, GatedNorm(norm, channels, reads=reads))
    if block.config.norm_qk and block.config.norm_qk_type == "olmo2":  # over all heads
        block.attn.norm_q = GatedNorm(block.attn.norm_q, groups, reads=False)
        block.attn.norm_k = GatedNorm(block.attn.norm_k, groups, reads=False)
    block.attn.proj.register_forward_pre_hook(lambda _, inputs: (_times(inputs[0], groups),))
    block.mlp.proj.register_forward_pre_hook(lambda _, inputs: (_times(inputs[0], neurons),))


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _times(x: Tensor, gates: Tensor) -> Tensor:
    return x * _each(gates, x).to(x.dtype)


def _each(gates: Tensor, x: Tensor) -> Tensor:
    """A gate for each channel: those of a query group's heads share one."""
    return gates.repeat_interleave(x.shape[-1] // len(gates))


def _backward(model: GPT, rows: Tensor, targets: int) -> None:
    """Add to the gates' gradients what some rows contribute to a mean over so many targets.

    Blocks run once more on the way back, so that the activations of one are held at a time.
    """
    with torch.no_grad():
        x, rotary = embedded(model, rows[:, :-1])
        states = [x]
        for block in model.transformer.h:
            states.append(run_block(block, states[-1], rotary))
    gradient = _through_head(model, states.pop(), rows[:, 1:].flatten(), targets)
    for block, state in zip(reversed(model.transformer.h), reversed(states), strict=True):
        leaf = state.requires_grad_()
        run_block(block, leaf, rotary).backward(gradient)
        gradient = _gradient(leaf)


def _through_head(model: GPT, state: Tensor, tokens: Tensor, targets: int) -> Tensor:
    """The gradient of the loss by what the last block gives, shape [1, T, channels]."""
    state.requires_grad_()
    hidden = model.transformer.ln_f(state).flatten(0, 1)
    # The logits of some positions at a time, or they would fill the memory.
    leaf = hidden.detach().requires_grad_()
    for part, expected in in_parts(leaf, tokens):
        logits = _wide(model.lm_head(part))
        if model.config.final_logit_softcapping is not None:
            logits = do_softcapping(logits, model.config.final_logit_softcapping)
        (functional.cross_entropy(logits, expected, reduction="sum") / targets).backward()
    hidden.backward(_gradient(leaf))
    return _gradient(state)


def _gradient(leaf: Tensor) -> Tensor:
    assert leaf.grad is not None
    return leaf.grad


@contextmanager
def _deterministic(device: torch.device | str) -> Iterator[None]:
    """While this is open, attention on CUDA adds up its gradients in an order that is always the
    same: the same seed gives the same search. Scoring has no backward pass."""
    if torch.device(device).type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what has no such order, and is not used here
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warned)


def _array(gates: Tensor) -> NDArray[np.float32]:
    return _gradient(gates).cpu().numpy()
