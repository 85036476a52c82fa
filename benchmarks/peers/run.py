"""Runs turns in processes of their own, keeps what they found, and goes on where it ended."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import code
from benchmarks.peers.catalog import ROWS, Peer
from benchmarks.peers.meter import PeakMemory
from benchmarks.peers.setting import FLAC, SOUNDFILE, USERS
from benchmarks.peers.venvs import python_of
from benchmarks.venvs import VenvError

RESUMED = (FLAC, SOUNDFILE)  # how a resumed epoch is decoded
ROOT = Path(__file__).parent.parent.parent
_LIMIT_S = 240.0

Result = dict[str, Any]


class TurnError(Exception):
    """A turn that failed: the last lines that it wrote."""


@dataclass(slots=True)
class Run:
    """All turns of a run.

    Attributes:
        work: holds formats, states, and what each peer's turns found.
        rounds: how often each is measured.
        seconds: how long a turn counts.
        code: what is measured; turns of another one are measured anew.
    """

    work: Path
    venvs: Path
    dataset: Path
    rounds: int
    seconds: float
    code: str = field(default_factory=code)
    found: dict[str, Result] = field(default_factory=dict)

    def everything(self, peers: list[Peer]) -> None:
        """Prepare and probe each peer, then let them take turns, then resume."""
        for peer in peers:
            for row in ROWS:
                self.prepare(peer, row[0])
                self._step(peer, "probe", row, 0)
        for number in range(self.rounds):
            for row in ROWS:
                for peer in peers:
                    self._step(peer, "measure", row, number)
        for number in range(self.rounds):
            for peer in peers:
                if not peer.limit:
                    self._step(peer, "save", RESUMED, 0)
                    self._step(peer, "resume", RESUMED, number)

    def results(self, peer: Peer) -> Result:
        """What a peer's turns found, by name.

        Of an earlier run, errors are tried again, and all if it was of another code or length.
        """
        if peer.module not in self.found:
            path = self._path(peer)
            known = json.loads(path.read_text()) if path.exists() else {}
            now = self._told()
            same = {name: known.get(name) for name in now} == now
            self.found[peer.module] = _without_errors(known) if same else {}
        return self.found[peer.module]

    def forget(self, peer: Peer) -> None:
        """Measure a peer anew, in a format written anew."""
        self.found[peer.module] = {}

    def workers(self, peer: Peer, row: tuple[str, str]) -> int | None:
        """The number of workers with which a peer was fastest; None if it did not run."""
        probed = self.results(peer).get(turn_name("probe", row, 0), {})
        rates = {int(w): rate for w, rate in probed.items() if w.isdigit()}
        return max(rates, key=rates.__getitem__) if rates else None

    def python(self, peer: Peer) -> Path:
        return python_of(self.venvs, peer.venv)

    def _step(self, peer: Peer, action: str, row: tuple[str, str], number: int) -> None:
        """One turn, unless it is known or something before it failed."""
        name, known = turn_name(action, row, number), self.results(peer)
        if name in known or (row not in peer.rows and action != "prepare"):
            return
        workers = self.workers(peer, row)
        if action not in ("prepare", "probe") and workers is None:
            return
        before = turn_name("prepare", (row[0], USERS), 0), turn_name("save", row, 0)
        if any("error" in known.get(name, {}) for name in before):
            return
        print(f"{peer.name}: {name}", file=sys.stderr, flush=True)
        try:
            known[name] = self._turn(peer, action, row, workers or 0)
        except (TurnError, VenvError) as error:
            known[name] = {"error": str(error)}
            print(error, file=sys.stderr, flush=True)
        known |= self._told()
        self._path(peer).parent.mkdir(parents=True, exist_ok=True)
        self._path(peer).write_text(json.dumps(known, indent=1))

    def _turn(self, peer: Peer, action: str, row: tuple[str, str], workers: int) -> Result:
        kind, decoders = row
        folder = self.folder(peer.module, kind)
        if action == "prepare":
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was broken off
        counted = self.seconds / 2 if action == "probe" else self.seconds
        command = [str(self.python(peer)), "-m", "benchmarks.peers.turn", action, peer.module]
        command += ["--folder", str(folder), "--dataset", str(self.dataset), "--kind", kind]
        command += ["--decoders", decoders, "--workers", str(workers)]
        command += ["--warm-s", str(self.seconds / 4), "--count-s", str(counted)]
        command += ["--state", str(self.dataset.parent / "formats" / f"{peer.module}.state")]
        return in_a_session(command)

    def folder(self, module: str, kind: str) -> Path:
        """Where a peer's format lies."""
        return self.dataset.parent / "formats" / f"{module}-{kind}"

    def prepare(self, peer: Peer, kind: str) -> None:
        """Write a peer's format, unless it is there; an error is among its results."""
        self._step(peer, "prepare", (kind, USERS), 0)

    def _told(self) -> Result:
        """What turns have to have in common to stand beside each other."""
        return {"seconds": self.seconds, "code": self.code}

    def _path(self, peer: Peer) -> Path:
        return self.dataset.parent / "turns" / f"{peer.module}.json"


def _without_errors(known: Result) -> Result:
    return {n: v for n, v in known.items() if not (isinstance(v, dict) and "error" in v)}


def turn_name(action: str, row: tuple[str, str], number: int) -> str:
    return f"{action} {' '.join(row)} {number}"


def in_a_session(command: list[str], *, limit_s: float = _LIMIT_S) -> Result:
    """The result of a command, and the most memory that it held with all that it started.

    Raises:
        TurnError: if it failed, or took too long.
    """
    paths = {"PYTHONPATH": str(ROOT), "LHOTSE_AUDIO_BACKEND": "LibsndfileBackend"}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | paths,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        memory = PeakMemory(child.pid)
        try:
            out, err = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired as expired:
            raise TurnError(f"no result within {limit_s:.0f} s") from expired
        finally:
            peak = memory.stop()
            _end(child.pid)
    if child.returncode:
        raise TurnError(_last_line(err))
    return {**json.loads(out.splitlines()[-1]), "peak_bytes": peak}


def _end(session: int) -> None:
    """End what is left of a session."""
    try:
        os.killpg(session, signal.SIGKILL)
    except ProcessLookupError:
        return


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
