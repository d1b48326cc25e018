import pytest

from evo.storage.names import ascii_name


@pytest.mark.parametrize("name", ["run-1", "fine-layerwise@25%", "a b"])
def test_ascii_stays_as_it_is(name):
    assert ascii_name(name) == name


def test_other_names_become_ascii_and_stay_apart():
    names = [
        "résultats",
        "resultats",
        "r\u00e9sultats\u0301",
        "结果",
        "結果",
        "поиск",
        "a\nb",
        "a\tb",
        "\udce9",
    ]
    found = [ascii_name(name) for name in names]
    assert all(one.isascii() and one.isprintable() for one in found)
    assert len(set(found)) == len(names)
    assert ascii_name("résultats").startswith("resultats-")
    assert ascii_name("结果") == ascii_name("结果")
