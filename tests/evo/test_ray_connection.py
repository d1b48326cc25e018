import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.ray
def test_a_ray_that_does_not_start_is_one_line(tmp_path):
    """A socket's path may have 107 bytes."""
    directory = tmp_path / ("y" * 100)
    directory.mkdir()
    code = "from evo.ray_connection import connect; from evo.errors import UserError\n"
    code += "try: connect()\nexcept UserError as error: print(error)"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"RAY_TMPDIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (line,) = found.stdout.splitlines()
    assert line.startswith("a Ray does not start here: ")
    assert "107 bytes" in line
