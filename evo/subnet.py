"""What is kept of a teacher: the genome of the search, as boolean masks.

Masks are in the teacher's stored coordinates, so that an id and a history mean the same for
every order and every space. A dropped layer keeps its genes (its rows of `groups` and `neurons`),
but only what is expressed counts for the id.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Dimensions:
    """How much there is to keep.

    Attributes:
        layers: transformer blocks, L.
        channels: residual channels, D (litgpt's `n_embd`).
        groups: query groups per layer, G; a head, where every head has its own keys and values.
        neurons: MLP neurons per layer, F (litgpt's `intermediate_size`).
    """

    layers: int
    channels: int
    groups: int
    neurons: int


@dataclass(frozen=True)
class Widths:
    """The shape of a network: all that its cost depends on, besides its architecture.

    Attributes:
        channels: residual channels.
        groups: query groups of each block, in depth order.
        neurons: MLP neurons of each block, in depth order.
    """

    channels: int
    groups: tuple[int, ...]
    neurons: tuple[int, ...]

    @property
    def layers(self) -> int:
        """The number of blocks."""
        return len(self.groups)

    @property
    def is_uniform(self) -> bool:
        """Whether all blocks are alike, so that a plain litgpt `Config` can say it."""
        return len(set(self.groups)) == 1 and len(set(self.neurons)) == 1


@dataclass(frozen=True, eq=False)
class Subnet:
    """Frozen masks over the whole teacher.

    Attributes:
        layers: kept blocks, shape [L].
        channels: kept residual channels, shape [D].
        groups: kept query groups of each of the teacher's layers, shape [L, G].
        neurons: kept MLP neurons of each of the teacher's layers, shape [L, F].

    Raises:
        ValueError: shapes that do not fit together, or a kept layer (or the residual stream)
            of which nothing is kept.
    """

    layers: Mask
    channels: Mask
    groups: Mask
    neurons: Mask

    def __post_init__(self) -> None:
        for name in ("layers", "channels", "groups", "neurons"):
            mask = np.array(getattr(self, name), dtype=np.bool_)  # own copy: masks are frozen
            mask.flags.writeable = False
            object.__setattr__(self, name, mask)
        total = self.layers.shape[0]
        if self.groups.shape[:1] != (total,) or self.neurons.shape[:1] != (total,):
            raise ValueError(
                f"masks of {total} layers, but groups {self.groups.shape}, "
                f"neurons {self.neurons.shape}"
            )
        kept_everywhere = (
            self.channels.any()
            and self.layers.any()
            and self.groups[self.layers].any(axis=1).all()
            and self.neurons[self.layers].any(axis=1).all()
        )
        if not kept_everywhere:
            raise ValueError(
                "a subnet keeps a layer, a channel, and in each kept layer a group and a neuron"
            )

    @classmethod
    def full(cls, dimensions: Dimensions) -> Subnet:
        """The subnet that is the teacher itself."""
        d = dimensions
        return cls(
            layers=np.ones(d.layers, np.bool_),
            channels=np.ones(d.channels, np.bool_),
            groups=np.ones((d.layers, d.groups), np.bool_),
            neurons=np.ones((d.layers, d.neurons), np.bool_),
        )

    @property
    def dimensions(self) -> Dimensions:
        """The teacher's dimensions."""
        return Dimensions(
            layers=self.layers.size,
            channels=self.channels.size,
            groups=self.groups.shape[1],
            neurons=self.neurons.shape[1],
        )

    @cached_property
    def widths(self) -> Widths:
        """How many of each are kept, in the kept layers."""
        return Widths(
            channels=int(self.channels.sum()),
            groups=tuple(self.groups[self.layers].sum(axis=1).tolist()),
            neurons=tuple(self.neurons[self.layers].sum(axis=1).tolist()),
        )

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits: the hash of what is expressed."""
        d = self.dimensions
        digest = hashlib.blake2b(digest_size=8)
        digest.update(np.array([d.layers, d.channels, d.groups, d.neurons], "<i8").tobytes())
        for mask in (
            self.layers,
            self.channels,
            self.groups[self.layers],
            self.neurons[self.layers],
        ):
            digest.update(np.packbits(mask).tobytes())
        return digest.hexdigest()

    def pack(self) -> bytes:
        """The genome, dropped layers' genes included, one bit per mask entry."""
        masks = (self.layers, self.channels, self.groups.ravel(), self.neurons.ravel())
        return np.packbits(np.concatenate(masks)).tobytes()

    @classmethod
    def unpack(cls, packed: bytes, dimensions: Dimensions) -> Subnet:
        """The inverse of `pack`.

        Raises:
            ValueError: the bytes are not a genome over a teacher of these dimensions.
        """
        d = dimensions
        sizes = (d.layers, d.channels, d.layers * d.groups, d.layers * d.neurons)
        bits = np.frombuffer(packed, np.uint8)
        if bits.size != -(-sum(sizes) // 8):
            raise ValueError(f"{bits.size} bytes are no genome over {d}")
        masks = np.split(
            np.unpackbits(bits, count=sum(sizes)).astype(np.bool_), np.cumsum(sizes)[:-1]
        )
        return cls(
            layers=masks[0],
            channels=masks[1],
            groups=masks[2].reshape(d.layers, d.groups),
            neurons=masks[3].reshape(d.layers, d.neurons),
        )
