import pytest

from evo.genome.bins import parse_bin
from evo.quantities import parse_count


@pytest.mark.parametrize(
    ("written", "number"),
    [
        (7, 7),
        ("7", 7),
        ("-3", -3),
        ("1_500_000", 1_500_000),
        ("10M", 10_000_000),
        ("10m", 10_000_000),
        ("1.5K", 1500),
        ("2.000001M", 2_000_001),
        ("15T", 15 * 10**12),
        (" 10 B ", 10**10),
        ("0.1M", 100_000),
        ("1.1B", 1_100_000_000),
    ],
)
def test_a_count(written, number):
    assert parse_count(written) == number


@pytest.mark.parametrize(
    "written",
    ["", "M", "1.5", "1.5001K", "1e6", "10MB", "1G", "ten", "nan", "inf", "0x10", "²", "1,5M",
     "9" * 5000, f"{2**63}", "9999999999B", "--5", True, None, 1.5, [1]],
)  # fmt: skip
def test_what_is_no_count(written):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_count(written)


@pytest.mark.parametrize("written", ["385M", "1.5b", "12k", "3T", "77"])
def test_bins_are_written_with_the_same_suffixes(written):
    bin = parse_bin(f"{written}-{written}", 10**9, lambda name: None)
    assert bin.low == bin.high == parse_count(written)
