"""packer.spread: results come in order, and no process outlives the one that started it."""

import os
import platform
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from packer.spread import spread
from shards.errors import DataError

PARENT = """
import sys
from pathlib import Path
import test_spread
from packer.interrupt import interruptible
from packer.spread import spread
if __name__ == "__main__":
    jobs = [Path(sys.argv[1])] * 8
    with interruptible():
        list(spread(test_spread.sleep, jobs, workers=2, progress=False))
"""

# two seconds after its start, as if Ctrl-C had been pressed twice at once
TWICE = """
import signal
from contextlib import suppress
def twice(*_):
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
if __name__ == "__main__":
    signal.signal(signal.SIGALRM, twice)
    signal.setitimer(signal.ITIMER_REAL, 2.0)
"""


def square(number: int) -> int:
    return number**2


def sleep(folder: Path) -> None:
    """Tell who sleeps, and sleep for longer than any test."""
    (folder / f"{os.getpid()}").touch()
    time.sleep(600)


def leaves_interrupts(_job: int) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def die(_job: int) -> None:
    os._exit(1)


@pytest.mark.parametrize("workers", [0, 1, 2, None])
def test_results_come_in_order(workers):
    assert list(spread(square, range(20), workers=workers, progress=False)) == [
        number**2 for number in range(20)
    ]


def test_workers_leave_interrupts_to_their_parent():
    assert all(spread(leaves_interrupts, range(4), workers=2, progress=False))
    assert not leaves_interrupts(0)


def test_a_worker_that_dies_is_told():
    with pytest.raises(DataError, match="use fewer --workers"):
        list(spread(die, range(4), workers=2, progress=False))


@pytest.mark.parametrize(
    ("signals", "pause_s"),
    [([signal.SIGKILL], 0), ([signal.SIGINT] * 3, 0.05), ([signal.SIGINT] * 9, 0.001)],
)
def test_no_worker_outlives_its_parent(tmp_path, signals, pause_s):
    """Killed outright, or by Ctrl-C several times, which goes to workers as well."""
    here = Path(__file__).parent
    env = os.environ | {"PYTHONPATH": f"{here}:{here.parent}"}
    (tmp_path / "asleep").mkdir()
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "asleep")],
        env=env,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        workers = wait_for(lambda: [int(p.name) for p in (tmp_path / "asleep").iterdir()], 2)
        for number in signals:
            if number == signal.SIGKILL:
                parent.kill()
            else:
                os.killpg(parent.pid, number)
                time.sleep(pause_s)
        parent.wait(timeout=60)
        wait_for(lambda: [pid for pid in workers if not is_there(pid)], 2)
    finally:
        for pid in [parent.pid, *(int(p.name) for p in (tmp_path / "asleep").iterdir())]:
            if is_there(pid):
                os.kill(pid, signal.SIGKILL)


def test_two_interrupts_at_once_wait_for_no_job(tmp_path):
    """Both are spent before there is anything to wait for."""
    here = Path(__file__).parent
    env = os.environ | {"PYTHONPATH": f"{here}:{here.parent}"}
    (tmp_path / "parent.py").write_text(TWICE + PARENT)
    (tmp_path / "asleep").mkdir()
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "asleep")]
    ended = subprocess.run(command, env=env, timeout=60, stderr=subprocess.PIPE, text=True)
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt")
    assert not [path.name for path in (tmp_path / "asleep").iterdir() if is_there(int(path.name))]


def wait_for(found, count: int, *, tries: int = 1200) -> list[int]:
    for _ in range(tries):
        if len(result := found()) == count:
            return result
        time.sleep(0.05)
    raise AssertionError(f"{found()}, not {count}")


def is_there(pid: int) -> bool:
    """Whether a process runs, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- memory of workers


def faults(_: int) -> int:
    """Page faults of 20 rounds in which 24 MB are filled and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [b"x" * (3 << 20) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="not glibc: another C library cannot be told"
)
def test_workers_keep_the_memory_they_freed():
    pages = (24 << 20) // resource.getpagesize()
    for found in spread(faults, [0, 1], workers=2, progress=False):
        assert found < 3 * pages
