"""Runs experiments, each in a process, over a mount of its own."""

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.drive.mount import FUSE, slow
from benchmarks.drive.ways import Way
from benchmarks.peers.catalog import PEERS
from benchmarks.peers.run import Run, TurnError, in_a_session, turn_name
from benchmarks.peers.setting import FLAC, USERS

FAILS_EVERY = 400  # reads of 128 KiB
_LIMIT_S = 900.0


@dataclass(frozen=True, slots=True)
class Experiments:
    """What each way is put through.

    Attributes:
        run: has the formats, and the venvs.
        part: samples that are read where times are scaled up.
        number, epochs: how many experiments, of how many epochs.
        step_s: pause after each batch.
    """

    run: Run
    part: int
    number: int
    epochs: int
    step_s: float

    @property
    def samples(self) -> int:
        manifest = json.loads((self.run.dataset / "manifest.json").read_text())
        return sum(shard["nsamples"] for shard in manifest["shardlist"])

    def of(self, way: Way) -> dict[str, Any]:
        """Times of all experiments of a way, or its error."""
        with tempfile.TemporaryDirectory(dir=self.run.work) as scratch:
            return self._several(way, Path(scratch) / "cache", self.number, fails_every=0)

    def failing(self, way: Way) -> dict[str, Any]:
        """One epoch from a mount on which reads fail."""
        once = replace(self, epochs=1)
        with tempfile.TemporaryDirectory(dir=self.run.work) as scratch:
            return once._several(way, Path(scratch) / "cache", 1, fails_every=FAILS_EVERY)

    def _several(self, way: Way, cache: Path, number: int, *, fails_every: int) -> dict[str, Any]:
        if way.fuse and not FUSE:
            return {"error": "needs a mounted folder, and there is no FUSE here"}
        try:
            source = self._source(way)
            done = []
            for place in range(number if way.keeps else 1):  # the same again otherwise
                print(f"{way.name}: experiment {place + 1}", file=sys.stderr, flush=True)
                with slow(source, fails_every=fails_every) as mount:
                    done.append(self._experiment(way, mount, cache))
        except (TurnError, OSError) as error:
            return {"error": str(error)}
        finally:
            shutil.rmtree(cache, ignore_errors=True)
        return {"experiments": done + done[-1:] * (number - len(done))}

    def _source(self, way: Way) -> Path:
        """The folder with a way's format.

        Raises:
            TurnError: if it cannot be written.
        """
        peer = next(peer for peer in PEERS if peer.module == way.form)
        self.run.prepare(peer, FLAC)
        told = self.run.results(peer)[turn_name("prepare", (FLAC, USERS), 0)]
        if "error" in told:
            raise TurnError(told["error"])
        own = way.form == "clavier"
        return self.run.dataset if own else self.run.folder(way.form, FLAC)

    def _experiment(self, way: Way, mount: str, cache: Path) -> dict[str, Any]:
        peer = next(peer for peer in PEERS if peer.module == way.form)
        command = [str(self.run.python(peer)), "-m", "benchmarks.drive.turn", way.name]
        command += ["--source", mount, "--cache", str(cache), "--samples", str(self.samples)]
        command += ["--part", str(self.part), "--epochs", str(self.epochs)]
        command += ["--dataset", str(self.run.dataset)]
        found = in_a_session([*command, "--step-s", str(self.step_s)], limit_s=_LIMIT_S)
        scale = self.samples / self.part if way.partly else 1.0
        copies = way.name == "files copied first"  # what grows with the samples is then in opening
        found["first_s"] *= scale if copies else 1.0
        first, *others = found["epochs_s"]
        alike_s = 0.0 if copies else found["opened_s"]
        found["epochs_s"] = [alike_s + (first - alike_s) * scale, *(s * scale for s in others)]
        return found
