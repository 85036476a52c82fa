"""The folder of a run: what lies where in it, and where it lies itself."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import yaml

from loader.cache import default_folder
from loader.disk import write_whole
from shards.retry import network_errors, retry
from trainer.carry import Carrier, bring_back
from trainer.checkpoint import BEST, FOLDER, newest
from trainer.destination import Destination, is_far
from trainer.disk import attempt
from trainer.lock import locked
from trainer.parts import CONFIG, STATE, is_part, is_run

_LOCK = ".lock"  # held while a fit runs; a process that dies lets go of it
_LAST_WAIT_S = 600.0
_SHOWN = 3


class RunFolder:
    """A run on a disk of this machine, carried to its destination where that is elsewhere.

    It holds ``config.yaml``, ``run.json`` (where the run stands), ``checkpoints/``, ``logs/`` for
    TensorBoard, ``metrics.json``, ``keys.jsonl``, and what else callbacks write there.

    Attributes:
        out: where the run is to lie, as it was given.
        path: where it lies on this machine; the same if that is a local folder.
    """

    def __init__(self, out: str, *, cache_dir: str | None = None, shared: bool = False) -> None:
        """Touch nothing yet.

        Args:
            cache_dir: local folder that holds runs whose destination is a mount or a URL.
            shared: whether other machines train along: they have to see the same folder, so what
                is on a mount is written there at once.

        Raises:
            ValueError: if it is shared and a URL.
        """
        self.out = out.rstrip("/")
        if shared and "://" in out:
            raise ValueError(f"out: {out}: a run on several machines needs a folder that all see")
        self._destination = Destination(out) if is_far(out) and not shared else None
        self.path = Path(self.out)
        if self._destination is not None:
            cache = Path(cache_dir) if cache_dir else default_folder()
            name = self.out.rpartition("/")[2] or "run"
            self.path = cache / "runs" / f"{name}-{sha256(self.out.encode()).hexdigest()[:8]}"
        self._carrier: Carrier | None = None

    def open(self) -> Self:
        """Bring the run back from its destination if that is ahead of what is here.

        Raises:
            ValueError: if the destination cannot be read.
        """
        if self._destination is None:
            return self
        # One process of this machine at a time: the first brings back, the others find it.
        lock = self.path.with_name(f"{self.path.name}.lock")
        with locked(lock, wait=True), self._reaching():
            there = retry(lambda: _parsed(self._destination.read(STATE)))  # type: ignore[union-attr]
            here = self.state()
            if there and _is_ahead(there, here):
                self._remove_local()
                print(f"bringing the run back from {self.out} ...", file=sys.stderr, flush=True)
                retry(lambda: bring_back(self.path, self._destination))  # type: ignore[arg-type]
        return self

    def state(self) -> dict[str, Any]:
        """Where the run stands; empty if it is new.

        ``id``; ``epoch``, ``step`` and ``batches`` of its last checkpoint; ``epochs`` that are
        complete; whether it has ``ended`` early.
        """
        try:
            return _parsed((self.path / STATE).read_bytes())
        except FileNotFoundError:
            return {}

    def config(self) -> dict[str, Any] | None:
        """What the run was started with; None if it is new."""
        try:
            text = (self.path / CONFIG).read_text()
        except FileNotFoundError:
            return None
        config: dict[str, Any] = yaml.safe_load(text)
        return config

    def checkpoint(self) -> Path | None:
        """What the run goes on from; None if it is new."""
        return newest(self.path / FOLDER)

    @property
    def shown(self) -> Path:
        """Where a user looks for the run: its destination, unless that is a URL."""
        return self.path if "://" in self.out else Path(self.out)

    @property
    def best(self) -> Path:
        """The checkpoint of the lowest validation loss."""
        return self.path / FOLDER / BEST

    def require_run(self) -> None:
        """Whatever else lies there, it is to be beside a run, and not the content of a disk.

        Raises:
            ValueError: if the folder holds something, and no run; or if it cannot be read.
        """
        far = self._destination
        with self._reaching():
            if far is None:
                read, names = self._read, _names(self.path)
            else:
                read, names = (lambda name: retry(lambda: far.read(name))), retry(far.names)
            if not names or is_run(read(STATE), read(CONFIG)):
                return
        raise ValueError(
            f"--fresh: {self.out} holds {', '.join(sorted(names)[:_SHOWN])} and no run: leave "
            "--fresh out to begin one beside that, or give a folder of its own with --out"
        )

    def clear(self) -> None:
        """Remove what an earlier run left; what others put beside it stays.

        Raises:
            ValueError: if the destination cannot be reached.
        """
        self._remove_local()
        if (far := self._destination) is not None:
            with self._reaching():
                retry(lambda: far.remove([name for name in far.sizes() if is_part(name)]))

    def begin(self, config: dict[str, Any]) -> None:
        """Write down what a run is started with, or goes on with, and begin to carry it."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / CONFIG, yaml.safe_dump(config, sort_keys=False).encode())
        if self._destination is not None:
            self._carrier = Carrier(self.path, self._destination)
            self._carrier.poke()

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Keep other fits out.

        Raises:
            ValueError: if there is one.
        """
        with ExitStack() as held:
            try:
                held.enter_context(locked(self.path / _LOCK, wait=False))
            except BlockingIOError:
                raise ValueError(f"out: another fit is running in {self.path}") from None
            yield

    def saved(self, stands: dict[str, Any]) -> None:
        """Write down where the run stands, as its last checkpoint has it."""
        state = {"id": self.state().get("id") or uuid4().hex, **stands}
        with attempt(self.path / STATE):
            write_whole(self.path / STATE, (json.dumps(state) + "\n").encode())
        if self._carrier is not None:
            self._carrier.poke()

    def close(self, *, patience_s: float = _LAST_WAIT_S) -> None:
        """Wait until the destination has everything, for a while; say what else is to be done."""
        if self._carrier is None or self._destination is None:
            return
        print(f"carrying the run to {self.out} ...", flush=True)
        if not self._carrier.close(patience_s=patience_s):
            print(
                f"warning: {self.out} does not have everything yet: it lies in {self.path}; the "
                "same command on this machine carries it, and trains nothing twice",
                flush=True,
            )
        elif self._destination.on_drive:
            print(
                f"{self.out} is complete; before this machine goes, in a notebook cell: "
                "from google.colab import drive; drive.flush_and_unmount()",
                flush=True,
            )
        self._carrier = None

    def _remove_local(self) -> None:
        for path in self.path.rglob("*"):
            if path.is_file() and is_part(path.relative_to(self.path).as_posix()):
                path.unlink()

    def _read(self, name: str) -> bytes | None:
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """What cannot be reached, or fetched, is told in a line."""
        try:
            yield
        except network_errors() as error:
            raise ValueError(f"out: {self.out}: {error or type(error).__name__}") from error


def run_name(configs: list[Any] | None, mode: str) -> str:
    """What a run is called that was given no folder: after its last config and its mode."""
    return f"{Path(str(configs[-1])).stem}-{mode}" if configs else mode


def _is_ahead(there: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether a destination's run is another one, or further, than the one on this machine."""
    return bool(there["id"] != here.get("id") or there["batches"] > here["batches"])


def _names(folder: Path) -> list[str]:
    """What lies in a folder, if it is there, but for the lock of a fit."""
    return [path.name for path in folder.iterdir() if path.name != _LOCK] if folder.is_dir() else []


def _parsed(data: bytes | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data) if data else {}
    return found
