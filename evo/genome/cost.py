"""What a network costs, from its widths: parameters, FLOPs per token, KV cache, decode latency.

Parameters are what `numel` counts, padding included, tied embeddings once. FLOPs count two per
multiply-add of every matrix product, as `torch.utils.flop_counter` does; attention counts the
full square of the sequence; the embedding look-up, norms and activations count nothing. The KV
cache is the keys and values of one sequence, two bytes for each element. Latency is predicted by
what was measured of some shapes, see `evo.genome.latency_model`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from evo.genome.subnet import Dimensions, Widths


@dataclass(frozen=True)
class Architecture:
    """What every subnet of a teacher shares with it.

    Attributes:
        dimensions: the teacher's own widths.
        vocabulary: rows of the embedding, padding included.
        head_size: channels of one attention head.
        queries_per_group: query heads that share one key and value head.
        mlp_matrices: 2 for GPT-NeoX's MLP, 3 for a gated one.
        bias: whether linear layers have biases.
        attention_bias: whether the query, key and value projection has one.
        head_bias: whether the output head has one.
        tied: whether embedding and output head are one matrix.
        norm_parameters: per channel: 2 for LayerNorm, 1 for RMSNorm, 0 without affine.
        norms_per_block: norms over the residual channels in one block.
        query_key_norm: none, over one head ("head"), or over all heads ("heads").
    """

    dimensions: Dimensions
    vocabulary: int
    head_size: int
    queries_per_group: int
    mlp_matrices: int
    bias: bool
    attention_bias: bool
    head_bias: bool
    tied: bool
    norm_parameters: int
    norms_per_block: int
    query_key_norm: Literal["none", "head", "heads"] = "none"

    @property
    def full_widths(self) -> Widths:
        """The teacher's own widths."""
        d = self.dimensions
        return Widths(d.channels, (d.groups,) * d.layers, (d.neurons,) * d.layers)


@dataclass(frozen=True)
class UnitCosts:
    """Costs at a given number of channels, in which they are affine; the total is linear in
    everything else. A unit_cost may be zero.

    Attributes:
        base: outside the blocks.
        layer: of a block without any group or neuron.
        group: of one query group.
        neuron: of one MLP neuron.
    """

    base: Any
    layer: Any
    group: Any
    neuron: Any

    def total(self, layers: Any, groups: Any, neurons: Any) -> Any:
        """The cost of so many layers, and so many groups and neurons in all of them."""
        return self.base + self.layer * layers + self.group * groups + self.neuron * neurons


def unit_costs(architecture: Architecture, channels: Any) -> UnitCosts:
    """What a layer, a query group and a neuron cost in parameters at this residual width.

    `channels` may be an array, of which the unit costs are then arrays too.
    """
    a, d = architecture, channels
    group_rows = (a.queries_per_group + 2) * a.head_size
    group_columns = a.queries_per_group * a.head_size
    norm_over_heads = (a.queries_per_group + 1) * a.head_size * a.norm_parameters
    return UnitCosts(
        base=(1 if a.tied else 2) * a.vocabulary * d
        + a.head_bias * a.vocabulary
        + a.norm_parameters * d,
        layer=a.norms_per_block * a.norm_parameters * d
        + 2 * a.bias * d
        + (2 * a.head_size * a.norm_parameters if a.query_key_norm == "head" else 0),
        group=d * (group_rows + group_columns)
        + (a.bias or a.attention_bias) * group_rows
        + (norm_over_heads if a.query_key_norm == "heads" else 0),
        neuron=a.mlp_matrices * d + a.bias * (a.mlp_matrices - 1),
    )


def flops_unit_costs(architecture: Architecture, channels: Any, sequence_length: int) -> UnitCosts:
    """What they cost in FLOPs of one token's forward pass, see `forward_flops`."""
    a, d = architecture, channels
    projections = d * (2 * a.queries_per_group + 2) * a.head_size
    attention = 2 * sequence_length * a.queries_per_group * a.head_size
    return UnitCosts(
        base=2 * a.vocabulary * d,
        layer=0,
        group=2 * (projections + attention),
        neuron=2 * a.mlp_matrices * d,
    )


SECOND = 10**15
"""Latencies are whole femtoseconds: on a fast GPU a multiply-add of decoding takes about 1000."""


@dataclass(frozen=True)
class LatencyUnitCosts:
    """What decoding one token takes, femtoseconds, none negative; see `evo.genome.latency_model`.

    Attributes:
        base: of any network.
        channel: of one residual channel, in embedding and output head.
        layer: of a block without any group or neuron.
        group: of one channel of a query group's heads.
        group_channel: of that for each residual channel.
        neuron: of one MLP neuron.
        neuron_channel: of that for each residual channel.
    """

    base: int
    channel: int
    layer: int
    group: int
    group_channel: int
    neuron: int
    neuron_channel: int


@dataclass(frozen=True)
class Cost:
    """A cost that bins can be ranges of.

    Attributes:
        kind: `parameters`; `flops`, of one token's forward pass; `kv-cache`, bytes of the keys and
            values of one sequence in two bytes per element; `latency`, femtoseconds to decode
            the last token of one sequence.
        length: of the sequence, tokens; parameters do not depend on it.
        latency: what latency is predicted by; None for other costs.
    """

    kind: Literal["parameters", "flops", "kv-cache", "latency"] = "parameters"
    length: int = 0
    latency: LatencyUnitCosts | None = None

    @property
    def unit(self) -> str:
        """For messages."""
        return {
            "parameters": "parameters",
            "flops": f"FLOPs per token at length {self.length}",
            "kv-cache": f"bytes of KV cache at length {self.length}",
            "latency": f"ms to decode a token at length {self.length}",
        }[self.kind]

    def shown(self, value: int) -> str:
        """A cost in the unit, for messages."""
        return f"{value * 1000 / SECOND:.4g}" if self.kind == "latency" else f"{value:,}"

    def unit_costs(self, architecture: Architecture, channels: Any) -> UnitCosts:
        """What a layer, a query group and a neuron cost; `channels` may be an array."""
        if self.kind == "flops":
            return flops_unit_costs(architecture, channels, self.length)
        if self.kind == "kv-cache":
            element, both = 2, 2  # bytes; keys and values
            group = both * element * self.length * architecture.head_size
            return UnitCosts(base=0, layer=0, group=group, neuron=0)
        if self.kind == "latency":
            assert self.latency is not None
            of = self.latency
            return UnitCosts(
                base=of.base + of.channel * channels,
                layer=of.layer,
                group=(of.group + of.group_channel * channels) * architecture.head_size,
                neuron=of.neuron + of.neuron_channel * channels,
            )
        return unit_costs(architecture, channels)

    def of(self, architecture: Architecture, widths: Widths) -> int:
        """What a network of these widths costs."""
        if widths.head_size is not None:
            architecture = replace(architecture, head_size=widths.head_size)
        return self.unit_costs(architecture, widths.channels).total(
            widths.layers, sum(widths.groups), sum(widths.neurons)
        )


PARAMETERS = Cost()


def parameters(architecture: Architecture, widths: Widths) -> int:
    """The number of parameters of a network of these widths."""
    return PARAMETERS.of(architecture, widths)


def forward_flops(architecture: Architecture, widths: Widths, sequence_length: int) -> int:
    """FLOPs of one token's forward pass within a sequence of this length.

    A training step costs three times as much: the backward pass is two forwards
    (Kaplan et al. 2020, section 2.1).
    """
    return Cost("flops", sequence_length).of(architecture, widths)
