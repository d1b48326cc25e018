from __future__ import annotations

import time

import pytest
import torch

from training.loop import matmul_rate


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_is_what_a_product_takes(precision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matmul_rate.SIZES, "cpu", 256)
    monkeypatch.setattr(matmul_rate, "LEAST_SECONDS", 0.05)
    rate = matmul_rate.matmul_rate(torch.device("cpu"), precision)
    one = torch.ones(256, 256, dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32)
    fastest = float("inf")
    for _ in range(200):
        began = time.perf_counter()
        torch.mm(one, one)
        fastest = min(fastest, time.perf_counter() - began)
    assert rate == pytest.approx(2 * 256**3 / fastest, rel=0.5)
