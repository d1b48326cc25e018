"""A command as a process of its own, watched from outside: its time, its memory, its files."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil


class Watched:
    """A command as a process of its own: its time and memory, and when a file changed.

    Attributes:
        changes: seconds since the start at which `marks` were seen to change, by file name.
        peaks: the largest memory of each process of the tree (VmHWM) in MiB, by process id.
        names: what these processes are.
        pss: the largest memory of the whole tree (PSS, of which shared pages count once), in MiB.
    """

    def __init__(self, command: list[Any], log: Path, marks: tuple[Path, ...] = ()) -> None:
        self.marks, self.log = marks, log
        self.changes: dict[str, list[float]] = {mark.name: [] for mark in marks}
        self.peaks: dict[int, float] = {}
        self.names: dict[int, str] = {}
        self.pss = 0.0
        variables = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        variables |= {"OMP_NUM_THREADS": "1", "EVO_CACHE": str(log.parent / f"{log.stem}-cache")}
        self.started = time.time()
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                cwd=Path(__file__).parents[2],
            )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def wait(self) -> float:
        """Seconds until it ended.

        Raises:
            SystemExit: it failed; the end of its output.
        """
        code = self.process.wait()
        seconds = time.time() - self.started
        self.close()
        if code:
            raise SystemExit(f"{self.log.name} ended with {code}:\n{self.log.read_text()[-3000:]}")
        return seconds

    def kill(self) -> None:
        """As `kill -9` does; then wait until what it had started (Ray) has ended by itself."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        psutil.wait_procs(children, timeout=60)
        self.close()

    def close(self) -> None:
        """Watch no longer."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        seen: dict[str, int] = {}
        tick = 0
        while not self._ended.wait(0.05):
            for mark in self.marks:
                try:
                    stat = mark.stat()
                except FileNotFoundError:
                    continue
                if stat.st_size and seen.get(mark.name) != stat.st_mtime_ns:
                    seen[mark.name] = stat.st_mtime_ns
                    self.changes[mark.name].append(time.time() - self.started)
            tick += 1
            if tick % 20 == 0:
                self._measure_memory()

    def _measure_memory(self) -> None:
        total = 0
        try:
            root = psutil.Process(self.process.pid)
            processes = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in processes:
            try:
                total += process.memory_full_info().pss
                status = Path(f"/proc/{process.pid}/status").read_text()
                self.names[process.pid] = (process.cmdline() or [process.name()])[0]
            except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
                continue
            peak = next((li for li in status.splitlines() if li.startswith("VmHWM")), "VmHWM: 0")
            self.peaks[process.pid] = int(peak.split()[1]) / 1024
        self.pss = max(self.pss, total / 2**20)

    def memory(self) -> dict[str, float]:
        """MiB: of the largest process that scores, of the one that was started, of all."""
        root = self.process.pid
        scorers = [p for pid, p in self.peaks.items() if "Scor" in self.names[pid]]
        return {
            "scorer": max(scorers, default=self.peaks.get(root, 0.0)),
            "started_process": self.peaks.get(root, 0.0),
            "tree_pss": self.pss,
        }
