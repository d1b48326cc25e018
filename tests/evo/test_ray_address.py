import socket
import threading
import time

import pytest

from evo.cli import main
from evo.errors import UserError
from evo.ray_address import check_address, refuse_throw_away


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize("address", ["", "auto", "local"])
def test_these_are_looked_for_by_ray_itself(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    check_address(0)


def test_a_dead_cluster_is_named_with_how_long_it_was_tried(monkeypatch):
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    expected = f"no Ray answers at RAY_ADDRESS {address}, tried for 0.5 seconds .*refused"
    with pytest.raises(UserError, match=expected):
        check_address(0.5)


@pytest.mark.parametrize("form", ["{}:{}", "ray://{}:{}"])
def test_a_cluster_that_is_just_starting_is_waited_for(form, monkeypatch):
    port = free_port()
    monkeypatch.setenv("RAY_ADDRESS", form.format("127.0.0.1", port))

    def start() -> None:
        time.sleep(0.3)
        with socket.create_server(("127.0.0.1", port)) as server:
            server.accept()[0].close()

    thread = threading.Thread(target=start)
    thread.start()
    check_address(20)
    thread.join()


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("http://127.0.0.1:8265", "is where `ray job submit` sends jobs"),
        ("somewhere", "is no address: give one such as"),
        (":6379", "is no address"),
        ("host:", "is no address"),
        ("host:99999999", "no Ray answers"),
        ("no.such.host.invalid:6379", "no Ray answers"),
    ],
)
def test_what_is_no_address_of_a_cluster(address, problem, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=problem):
        check_address(0)


def test_outputs_in_rays_copy_of_a_working_directory_are_refused(tmp_path, monkeypatch, capsys):
    copy = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    command = ["search", "--teacher", "t", "--text", "a.txt", "--bins", "25%", "--out", "runs/x"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "runs/x lies in Ray's copy of the working directory" in error
    assert "such as /shared/x" in error  # there may be no home
    assert list(copy.iterdir()) == []
    refuse_throw_away(tmp_path / "runs" / "x")
