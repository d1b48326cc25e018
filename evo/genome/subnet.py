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
        head_size: channels of every attention head; None is the architecture's own.
    """

    channels: int
    groups: tuple[int, ...]
    neurons: tuple[int, ...]
    head_size: int | None = None

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
        head_size: kept channels of every attention head; None is the teacher's, and the only way
            to say it, as the id of a network must be one.

    Raises:
        ValueError: shapes that do not fit together, or a kept layer (or the residual stream)
            of which nothing is kept.
    """

    layers: Mask
    channels: Mask
    groups: Mask
    neurons: Mask
    head_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("layers", "channels", "groups", "neurons"):
            mask = np.asarray(getattr(self, name), dtype=np.bool_)
            if mask.flags.writeable or mask.base is not None:
                mask = mask.copy()  # own copy: masks are frozen
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
            and (self.groups.any(axis=1) | ~self.layers).all()
            and (self.neurons.any(axis=1) | ~self.layers).all()
        )
        if not kept_everywhere:
            raise ValueError(
                "a subnet keeps a layer, a channel, and in each kept layer a group and a neuron"
            )
        if self.head_size is not None and not 0 < self.head_size < 2**16:
            raise ValueError(f"a head of {self.head_size} channels cannot be")

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
    def kept_groups(self) -> NDArray[np.int64]:
        """How many groups each of the teacher's layers keeps, dropped ones included, shape [L]."""
        return kept_by_row(self.groups)

    @cached_property
    def kept_neurons(self) -> NDArray[np.int64]:
        """How many neurons, likewise."""
        return kept_by_row(self.neurons)

    @cached_property
    def widths(self) -> Widths:
        """How many of each are kept, in the kept layers."""
        return Widths(
            channels=int(self.channels.sum()),
            groups=tuple(self.kept_groups[self.layers].tolist()),
            neurons=tuple(self.kept_neurons[self.layers].tolist()),
            head_size=self.head_size,
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
        digest.update(self._packed_head_size())
        return digest.hexdigest()

    def pack(self) -> bytes:
        """The genome, dropped layers' genes included, one bit per mask entry.

        Two more bytes where the head size is not the teacher's.
        """
        masks = (self.layers, self.channels, self.groups.ravel(), self.neurons.ravel())
        return np.packbits(np.concatenate(masks)).tobytes() + self._packed_head_size()

    def _packed_head_size(self) -> bytes:
        return b"" if self.head_size is None else self.head_size.to_bytes(2, "little")

    @classmethod
    def unpack(cls, packed: bytes, dimensions: Dimensions) -> Subnet:
        """The inverse of `pack`.

        Raises:
            ValueError: the bytes are not a genome over a teacher of these dimensions.
        """
        d = dimensions
        sizes = (d.layers, d.channels, d.layers * d.groups, d.layers * d.neurons)
        end = -(-sum(sizes) // 8)
        if len(packed) not in (end, end + 2):
            raise ValueError(f"{len(packed)} bytes are no genome over {d}")
        bits = np.unpackbits(np.frombuffer(packed[:end], np.uint8), count=sum(sizes))
        masks = np.split(bits.astype(np.bool_), np.cumsum(sizes)[:-1])
        return cls(
            layers=masks[0],
            channels=masks[1],
            groups=masks[2].reshape(d.layers, d.groups),
            neurons=masks[3].reshape(d.layers, d.neurons),
            head_size=int.from_bytes(packed[end:], "little") or None,
        )


def kept_by_row(mask: Mask) -> NDArray[np.int64]:
    """How many each row keeps: several times faster than a sum over its booleans."""
    return np.array([np.count_nonzero(row) for row in mask], np.int64)
