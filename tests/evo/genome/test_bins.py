import pytest

from evo.errors import UserError
from evo.genome.bins import Bin, parse_bin
from evo.genome.cost import PARAMETERS, Cost

MODELS = {"pythia-410m": 405_334_016, "EleutherAI/pythia-410m": 405_334_016}


def parse(text: str, teacher: int = 1000, cost: Cost = PARAMETERS) -> Bin:
    return parse_bin(text, teacher, MODELS.get, cost)


def test_ends_belong_to_the_bin():
    bin = Bin("b", 10, 20)
    assert [cost in bin for cost in (9, 10, 15, 20, 21)] == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("385M-426M", 385_000_000, 426_000_000),
        ("385-426M", 385_000_000, 426_000_000),
        ("961M-1.06B", 961_000_000, 1_060_000_000),
        ("1.5k-2K", 1500, 2000),
        ("100-200", 100, 200),
        ("100-100", 100, 100),
        ("400M", 380_000_000, 420_000_000),
        ("2b", 1_900_000_000, 2_100_000_000),
        ("400", 380, 420),
        ("40%", 380, 420),
        ("12.5%", 119, 131),
        ("pythia-410m", 385_067_315, 425_600_717),
    ],
)
def test_what_the_user_may_write(text, low, high):
    bin = parse(text)
    assert (bin.name, bin.low, bin.high) == (text, low, high)
    spaced = parse(f" {text.replace('-', ' - ') if text[0].isdigit() else text} ")
    assert spaced == bin


def test_a_range_of_one_percent_is_of_the_teacher():
    assert parse("1%", 10_000_000) == Bin("1%", 95_000, 105_000)


def test_a_name_serves_as_a_directory():
    assert parse("EleutherAI/pythia-410m") == parse("pythia-410m")


@pytest.mark.parametrize("text", ["", "%", "nope", "-5M", "5M-", "1P", "1e6", "40%-50%", "nan"])
def test_what_is_no_bin(text):
    with pytest.raises(UserError, match=r"unknown bin .* is a range like 385M-426M"):
        parse(text)


@pytest.mark.parametrize("text", ["426M-385M", "0", "0%", "0-0"])
def test_empty_ranges(text):
    with pytest.raises(UserError, match="is empty: from"):
        parse(text)


@pytest.mark.parametrize(
    ("kind", "text", "low", "high"),
    [
        ("flops", "1.5G-2G", 1_500_000_000, 2_000_000_000),
        ("flops", "900M-1.1T", 900_000_000, 1_100_000_000_000),
        ("flops", "40%", 380, 420),
        ("kv-cache", "10MB-12MB", 10_000_000, 12_000_000),
        ("kv-cache", "10-12mib", 10 * 2**20, 12 * 2**20),
        ("kv-cache", "1KiB-1MB", 1024, 1_000_000),
        ("kv-cache", "100B-200B", 100, 200),
        ("kv-cache", "pythia-410m", 385_067_315, 425_600_717),
    ],
)
def test_other_costs_have_units_of_their_own(kind, text, low, high):
    cost = Cost(kind, 128)
    assert parse(text, cost=cost) == Bin(text, low, high, cost)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("parameters", "1MB-2MB"), ("parameters", "1G"), ("flops", "1B-2B"), ("flops", "1MiB"),
     ("kv-cache", "10-12"), ("kv-cache", "10M-12M"), ("kv-cache", "10M-12MB")],
)  # fmt: skip
def test_units_of_another_cost(kind, text):
    with pytest.raises(UserError, match=r"unknown bin .*: a bin of .* is a range like"):
        parse(text, cost=Cost(kind, 128))


def test_a_bin_names_its_unit():
    assert str(Bin("b", 1000, 2000)) == "b (1,000 to 2,000 parameters)"
    flops = Bin("b", 1000, 2000, Cost("flops", 128))
    assert str(flops) == "b (1,000 to 2,000 FLOPs per token at length 128)"
    cache = Bin("b", 1000, 2000, Cost("kv-cache", 128))
    assert str(cache) == "b (1,000 to 2,000 bytes of KV cache at length 128)"
