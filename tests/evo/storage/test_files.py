import os
import socket
import threading

import pytest

from evo.errors import UserError
from evo.storage.files import atomic_directory, atomic_file, exclusive, refuse_occupied


def fail_half_way(path):
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError


def fail_half_way_in_a_directory(path):
    with atomic_directory(path) as temporary:
        (temporary / "a").write_text("1")
        raise ZeroDivisionError


def fill_the_disk(path):
    with atomic_file(path) as temporary:
        temporary.touch()
        with open("/dev/full", "wb") as full:
            full.write(b"0" * 2**20)


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "file"
    with atomic_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    with atomic_file(path) as temporary:
        temporary.write_text("other")
    assert path.read_text() == "other"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_kept_when_its_successor_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        fail_half_way(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_appears_whole(tmp_path):
    path = tmp_path / "new" / "out"
    with atomic_directory(path) as temporary:
        (temporary / "a").write_text("1")
        assert not path.exists()
    assert (path / "a").read_text() == "1"
    assert path.stat().st_mode & 0o777 == 0o755
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_once_it_is_old(tmp_path):
    old, new, other = (tmp_path / f".{name}.tmp" for name in ("out.a", "out.b", "outer.c"))
    for left in (old, new, other):
        (left / "deep").mkdir(parents=True)
        (left / "deep" / "a").write_text("1")
    for path in (*old.rglob("*"), old, *other.rglob("*"), other, new, new / "deep"):
        os.utime(path, (0, 0))
    with atomic_directory(tmp_path / "out") as temporary:
        (temporary / "a").write_text("1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, other.name, "out"]


def test_temporary_names_differ_between_machines(tmp_path):
    with atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("1")
        assert socket.gethostname() in temporary.name


def test_nothing_is_left_of_a_directory_that_fails(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fail_half_way_in_a_directory(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_empty_directory_is_replaced_and_a_full_one_refused(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with atomic_directory(out) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(UserError, match="exists already"), atomic_directory(out):
        raise AssertionError
    with pytest.raises(UserError, match="exists already"), atomic_directory(out / "a"):
        raise AssertionError
    assert (out / "a").read_text() == "1"


def test_an_output_under_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "out", tmp_path / "file" / "deep" / "out"):
        for writer in (atomic_file, atomic_directory):
            with pytest.raises(UserError, match="cannot write") as caught, writer(path):
                raise AssertionError
            assert "\n" not in str(caught.value)
        with pytest.raises(UserError, match="is a file"):
            refuse_occupied(path)
    refuse_occupied(tmp_path / "deep" / "out")


def test_a_full_disk_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
        fill_the_disk(tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_only_one_process_at_a_time_works_in_a_directory(tmp_path):
    with (
        exclusive(tmp_path),
        pytest.raises(UserError, match="another process is at work"),
        exclusive(tmp_path),
    ):
        pass
    with exclusive(tmp_path):  # free again
        pass


def test_who_is_patient_waits_for_another_process_to_end(tmp_path):
    leave = threading.Event()

    def work():
        with exclusive(tmp_path):
            entered.set()
            leave.wait()

    entered = threading.Event()
    other = threading.Thread(target=work)
    other.start()
    entered.wait()
    with pytest.raises(UserError, match="another process"), exclusive(tmp_path, patience=0.01):
        pass
    threading.Timer(0.2, leave.set).start()
    with exclusive(tmp_path, patience=30):
        assert leave.is_set()
    other.join()


def test_an_error_at_work_is_not_one_of_the_lock(tmp_path):
    with pytest.raises(FileNotFoundError), exclusive(tmp_path):
        (tmp_path / "nowhere").read_text()
