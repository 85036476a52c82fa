"""Processor time and memory of all processes of a session: a peer with its workers."""

import os
import threading
from pathlib import Path

from benchmarks.memory import held_bytes

_TICKS = os.sysconf("SC_CLK_TCK")
_EVERY_S = 0.1
_LOOK_ROUND = 5  # samples of memory between two searches for new processes


def cpu_seconds(session: int) -> float:
    """Seconds in user and system mode of a session's processes, of those too that have ended."""
    fields = [_stat(process) for process in processes(session)]
    return sum(sum(map(int, found[11:15])) for found in fields if found) / _TICKS


def processes(session: int) -> list[int]:
    found = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [process for process in found if _session(process) == session]


class PeakMemory:
    """The most that a session's processes hold together, looked at ten times a second."""

    def __init__(self, session: int) -> None:
        self.peak_bytes = 0
        self._session = session
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._stopped.set()
        self._thread.join()
        return self.peak_bytes

    def _watch(self) -> None:
        number, found = 0, processes(self._session)
        while not self._stopped.wait(_EVERY_S):
            if number % _LOOK_ROUND == 0:
                found = processes(self._session)
            self.peak_bytes = max(
                self.peak_bytes, sum(held_bytes(process=process) for process in found)
            )
            number += 1


def _stat(process: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; empty once the process has ended."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _session(process: int) -> int:
    found = _stat(process)
    return int(found[3]) if found else -1
