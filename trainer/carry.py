"""Carries a run from the local disk to its destination in the background, however that fails."""

import json
import logging
import os
import threading
from contextlib import ExitStack
from pathlib import Path

from loader.disk import write_whole
from shards.retry import network_errors
from trainer.checkpoint import FOLDER, LAST, PREVIOUS
from trainer.destination import Destination
from trainer.parts import CARRIED, STATE

log = logging.getLogger(__name__)

_LAST, _PREVIOUS = f"{FOLDER}/{LAST}", f"{FOLDER}/{PREVIOUS}"
# Announced by the others: a reader that sees one of these finds what it speaks of.
_ORDER = {_LAST: 1, STATE: 2}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0
Stamp = list[int]  # size, time of change


class Carrier:
    """A thread that makes a destination equal to a folder whenever it is told of changes.

    What fails is tried again with growing pauses, for ever: training goes on meanwhile.
    """

    def __init__(
        self, folder: Path, destination: Destination, *, first_pause_s: float = _FIRST_PAUSE_S
    ) -> None:
        self._folder, self._destination = folder, destination
        self._first_pause_s = first_pause_s
        self._changed, self._idle, self._ended = (threading.Event() for _ in range(3))
        self._idle.set()
        self._lock, self._broken = threading.Lock(), False
        # A daemon: a mount that hangs in a write must not keep the program from ending.
        self._thread = threading.Thread(target=self._work, name="carry-run", daemon=True)
        self._thread.start()

    def poke(self) -> None:
        """Say that something has changed."""
        with self._lock:
            if not self._broken:
                self._idle.clear()
            self._changed.set()

    def close(self, *, patience_s: float) -> bool:
        """Carry what is left, for so many seconds at most; whether all of it is there."""
        self.poke()
        complete = self._idle.wait(patience_s) and not self._broken
        self._ended.set()
        self._changed.set()
        return complete

    def _work(self) -> None:
        try:
            while self._changed.wait() and not self._ended.is_set():
                self._changed.clear()
                self._carry_patiently()
                with self._lock:  # or a change told between these two would count as carried
                    if not self._changed.is_set():
                        self._idle.set()
        except BaseException:  # a bug: told by the thread, and nobody is to wait for it
            with self._lock:
                self._broken = True
                self._idle.set()
            raise

    def _carry_patiently(self) -> None:
        pause_s = self._first_pause_s
        while not self._ended.is_set():
            try:
                carry(self._folder, self._destination)
            except network_errors() as error:
                log.warning(
                    "%s cannot be written: %s; tried again in %.0f s, and the run goes on: what "
                    "is not there yet lies in %s",
                    *(self._destination.out, error, pause_s, self._folder),
                )
                self._ended.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                return


def carry(folder: Path, destination: Destination) -> list[str]:
    """Bring over every file that changed since it was last brought; their names, in order.

    A checkpoint is opened before everything else is and published after it, so that what is there
    is never behind the checkpoint. The last one there becomes the previous one.

    Raises:
        Exception: of ``network_errors()``; what was brought until then stays noted.
    """
    notes = _read_notes(folder)
    carried = []
    with ExitStack() as stack:
        names = sorted(_names(folder), key=lambda name: (name != _LAST, name))
        opened = {}
        for name in names:
            try:
                file = stack.enter_context((folder / name).open("rb"))
            except FileNotFoundError:  # replaced or taken away this moment
                continue
            found = _stamp(file.fileno())
            if found != notes.get(name):
                opened[name] = (file, found)
        for name in sorted(opened, key=lambda name: (_ORDER.get(name, 0), name)):
            file, found = opened[name]
            if name == _LAST and _LAST in notes:
                _keep_previous(destination)
            destination.put(file, found[0], name)
            notes[name] = found
            write_whole(folder / CARRIED, json.dumps(notes).encode())
            carried.append(name)
    return carried


def bring_back(folder: Path, destination: Destination) -> list[str]:
    """Copy a run here from its destination, all of it; what is here already is replaced.

    Raises:
        Exception: of ``network_errors()``.
    """
    names = sorted(destination.sizes(), key=lambda name: (_ORDER.get(name, 0), name))
    notes = {}
    for name in names:
        destination.fetch(name, folder / name)
        with (folder / name).open("rb") as file:
            notes[name] = _stamp(file.fileno())
    write_whole(folder / CARRIED, json.dumps(notes).encode())
    return names


def _keep_previous(destination: Destination) -> None:
    try:
        destination.rename(_LAST, _PREVIOUS)
    except FileNotFoundError:
        log.warning("%s/%s was taken away", destination.out, _LAST)


def _names(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in files)
    # The previous one is the destination's own, by renaming there.
    return [n for n in names if not Path(n).name.startswith(".") and n != _PREVIOUS]


def _stamp(descriptor: int) -> Stamp:
    about = os.fstat(descriptor)
    return [about.st_size, about.st_mtime_ns]


def _read_notes(folder: Path) -> dict[str, Stamp]:
    try:
        notes: dict[str, Stamp] = json.loads((folder / CARRIED).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return notes
