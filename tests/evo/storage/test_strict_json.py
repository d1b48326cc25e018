import json
import math

import numpy as np
import pytest

from evo.storage.strict_json import dumps, loads, plain


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_what_json_cannot_say():
    value = {
        "perplexity": math.inf,
        "least": -math.inf,
        "losses": [1.5, math.nan, (2, None)],
        "accuracy": np.float32(0.5),
        "right": np.bool_(True),
        "samples": np.int64(3),
        "share": np.float64("inf"),
        "counts": np.arange(2),
        "task": "a",
    }
    assert json.loads(dumps(value), parse_constant=refuse) == plain(value) == {
        "perplexity": None,
        "least": None,
        "losses": [1.5, None, [2, None]],
        "accuracy": 0.5,
        "right": True,
        "samples": 3,
        "share": None,
        "counts": [0, 1],
        "task": "a",
    }  # fmt: skip
    with pytest.raises(TypeError):
        dumps({"path": object()})


def test_what_is_nested_too_deep_is_no_json_that_can_be_read():
    assert loads(b'{"a": [1]}') == {"a": [1]}
    for content in ("[" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000, "{"):
        with pytest.raises(ValueError):  # noqa: PT011
            loads(content)
