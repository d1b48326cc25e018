"""Matrix products in float32 on CPU by oneDNN instead of MKL, which torch uses by default.

MKL holds its AVX-512 code back from processors that are not Intel's: there oneDNN is about twice as
fast. Where it is not, it costs a copy of input and output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def takes(x: Tensor) -> bool:
    """Whether a product with this tensor can be left to oneDNN."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.layout == torch.strided
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")  # it knows no tensors of oneDNN
    )


class OneDNNLinear(TorchFunctionMode):
    """While it is active, `torch.nn.Linear` and `functional.linear` compute with oneDNN.

    For inference: no gradient flows through.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Called by torch in place of each of its functions."""
        if func is functional.linear and takes(args[0]):
            return func(args[0].to_mkldnn(), *args[1:], **(kwargs or {})).to_dense()
        return func(*args, **(kwargs or {}))
