"""What the pool needs of Ray and its public interface does not offer. Checked with Ray 2.60.0.

`ray.available_resources` sums over the cluster, and a worker must fit on one node: two nodes with
half a GPU each have room for none that needs a whole one.
"""

from __future__ import annotations

import ray._private.state


def available_resources_per_node() -> dict[str, dict[str, float]]:
    """The free resources of each living node, by its id and the resource's name."""
    return ray._private.state.available_resources_per_node()
