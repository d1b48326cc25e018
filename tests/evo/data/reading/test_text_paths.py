import os
from pathlib import Path

import pytest

from evo.data.reading.text_paths import text_paths
from evo.data.sources import documents


@pytest.fixture
def corpus(tmp_path):
    """Files a and b in directories of their own, and c elsewhere."""
    for place in ("corpus/one/a.txt", "corpus/two/b.txt", "elsewhere/deep/c.txt"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text(Path(place).stem)
    return tmp_path / "corpus"


def found(source):
    return [str(path.relative_to(source)) for path in text_paths(str(source))]


def test_links_to_directories_are_followed(corpus):
    (corpus / "link").symlink_to("../elsewhere", target_is_directory=True)
    assert found(corpus) == ["link/deep/c.txt", "one/a.txt", "two/b.txt"]
    assert list(documents(str(corpus))) == ["c", "a", "b"]
    (corpus.parent / "elsewhere" / "again").symlink_to(corpus.parent / "far")
    (corpus.parent / "far").mkdir()
    (corpus.parent / "far" / "d.txt").write_text("d")
    assert list(documents(str(corpus))) == ["d", "c", "a", "b"]
    assert list(documents(str(corpus / "link"))) == ["d", "c"]
    (corpus / ".hidden").symlink_to(corpus.parent / "far")
    assert len(found(corpus)) == 4


def test_loops_are_noticed_and_no_directory_is_read_twice(corpus, caplog):
    caplog.set_level("INFO")
    without = list(documents(str(corpus)))
    for number, target in enumerate((".", "..", "/", "one", corpus, corpus / "two")):
        (corpus / f"0{number}").symlink_to(target)
    (corpus / "one" / "up").symlink_to("../..")
    (corpus / "one" / "self").symlink_to("self")
    (corpus / "gone.txt").symlink_to("nowhere.txt")
    assert list(documents(str(corpus))) == without == ["a", "b"]
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.endswith(
        ": 9 links that lead back or nowhere are left out: 00, 01, 02, 03, 04, ..."
    )


def test_two_links_to_one_directory_are_one(corpus):
    for name in ("x", "y"):
        (corpus / name).symlink_to("../elsewhere")
    assert found(corpus) == ["one/a.txt", "two/b.txt", "x/deep/c.txt"]


def test_a_glob_finds_no_file_twice(corpus):
    (corpus / "one" / "loop").symlink_to(".")
    (corpus / "link").symlink_to("../elsewhere")
    assert list(documents(f"{corpus}/**/*.txt")) == ["c", "a", "b"]
    (corpus / "two" / "same.txt").symlink_to("b.txt")  # a file of its own name
    assert list(documents(f"{corpus}/two/*.txt")) == ["b", "b"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_cannot_be_read_is_named(corpus):
    (corpus / "one").chmod(0)
    with pytest.raises(PermissionError, match="one"):
        text_paths(str(corpus))
