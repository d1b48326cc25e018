"""A litgpt network as a config and tensors: what teachers, checkpoints and winners are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from evo.genome.cost import Architecture
from evo.genome.subnet import Widths
from evo.model.layerwise_gpt import architecture_of, build, is_tied, tie, widths_of
from evo.model.litgpt import GPT, Config

EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"


@dataclass(frozen=True)
class Network:
    """A network as tensors, which may be shared memory: they are only read.

    Attributes:
        config: litgpt's description; of a layer-wise network, what its blocks have in common.
        widths: of its blocks.
        weights: every tensor by litgpt's name; tied ones are one tensor under two names.
        tied: whether embedding and output head are one matrix.
    """

    config: Config
    widths: Widths
    weights: Mapping[str, Tensor]
    tied: bool

    @classmethod
    def of(cls, model: GPT) -> Network:
        """The network whose weights a model holds; nothing is copied."""
        return cls(model.config, widths_of(model), model.state_dict(), is_tied(model))

    @property
    def architecture(self) -> Architecture:
        """The numbers on which cost depends."""
        return architecture_of(self.config, tied=self.tied)

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits over the names, dtypes, shapes and bytes of all weights."""
        digest = hashlib.blake2b(digest_size=8)
        for name in sorted(self.weights):
            tensor = self.weights[name].contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def model(self, dtype: torch.dtype = torch.float32) -> GPT:
        """The network as a module, with weights of its own, in evaluation mode."""
        model = self._empty().to(dtype).to_empty(device="cpu")
        model.load_state_dict(self.weights)
        return self._ready(model)

    def mapped_model(self) -> GPT:
        """The network as a module over the stored weights, in their dtype.

        A worker's memory holds none of a file's weights until they are read. Writing to a weight
        copies what is written to; the file stays as it is.
        """
        model = self._empty()
        model.load_state_dict(self.weights, assign=True)
        return self._ready(model)

    def _empty(self) -> GPT:
        with torch.device("meta"):
            return build(self.config, self.widths)

    def _ready(self, model: GPT) -> GPT:
        if self.tied:
            tie(model)
        reset_rope(model)
        return model.eval()


def reset_rope(model: GPT) -> None:
    """Compute the rotary tables, which are no part of a checkpoint, in float32."""
    model.cos, model.sin = model.rope_cache(device=model.lm_head.weight.device)
