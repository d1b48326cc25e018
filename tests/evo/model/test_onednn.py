import pytest
import torch
from torch import nn

from evo.model import onednn

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN"
)


def test_linear_layers_give_the_same_to_rounding():
    torch.manual_seed(0)
    for shape in ((7, 33), (2, 5, 33)):
        for bias in (True, False):
            layer, x = nn.Linear(33, 21, bias=bias), torch.randn(shape)
            expected = layer.double()(x.double())
            layer.float()
            with torch.inference_mode(), onednn.OneDNNLinear():
                got = layer(x)
            assert got.layout == torch.strided
            torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)


def test_leaves_alone_what_it_cannot_take():
    x = torch.randn(3, 4)
    assert onednn.takes(x)
    assert not onednn.takes(x.bfloat16())
    assert not onednn.takes(x.to_mkldnn())
    with torch.autocast("cpu", torch.bfloat16):
        assert not onednn.takes(x)
    layer = nn.Linear(4, 2).bfloat16()
    with torch.inference_mode(), onednn.OneDNNLinear():
        assert torch.equal(
            layer(x.bfloat16()), nn.functional.linear(x.bfloat16(), *layer.parameters())
        )
