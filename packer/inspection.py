"""Opens recordings and MIDI files, each once and many at a time: are they there, and whole?"""

import hashlib
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TypeVar
from unicodedata import normalize

import numpy as np
from tqdm import tqdm

from packer.audio import AudioInfo, probe_audio
from packer.copies import as_it_is
from packer.patience import patiently
from shards.errors import DecodeError
from shards.faults import FaultError, Kind
from shards.notes import end_time, parse_midi, read_notes

_SAMPLED_BYTES = 1 << 16  # of each file, to tell most files apart without reading them
_EDGE_S = 1e-6  # a note that ends as a window starts is outside it, whatever rounding says

Item = TypeVar("Item", bound=Hashable)
Info = TypeVar("Info")


@dataclass(frozen=True, slots=True)
class MidiInfo:
    """What is asked of a MIDI file.

    Attributes:
        bytes: of the file.
        sha256: of its content.
        end_s: when its last note ends.
        starts, stops: float64 seconds of the stretches in which piano notes sound, in order.
    """

    bytes: int
    sha256: str
    end_s: float
    starts: "array[float]"
    stops: "array[float]"

    def sounds(self, start_s: float, end_s: float) -> bool:
        """Whether a note sounds within ``[start_s, end_s)``."""
        last = bisect_left(self.starts, end_s - _EDGE_S) - 1
        return last >= 0 and self.stops[last] > start_s + _EDGE_S


def read_ahead(
    files: Iterable[Item | None],
    look: Callable[[Item], Info],
    *,
    threads: int,
    label: str,
    progress: bool,
) -> dict[Item, Info | FaultError]:
    """``look`` at every file, ``threads`` at a time: a mount answers many as fast as one.

    No folder is listed. What is wrong with a file stands in its place.

    Args:
        files: their paths, or what else ``look`` knows them by.
    """

    def looked(file: Item) -> Info | FaultError:
        try:
            return look(file)
        except FaultError as fault:
            return fault

    distinct = list(dict.fromkeys(file for file in files if file is not None))
    with ThreadPoolExecutor(threads) as pool:
        bar = tqdm(
            pool.map(looked, distinct),
            total=len(distinct),
            desc=label,
            unit=" files",
            disable=None if progress and distinct else True,
        )
        return dict(zip(distinct, bar, strict=True))


def look_at_audio(path: Path) -> AudioInfo:
    """The header of a recording.

    Raises:
        FaultError: if the file is missing, empty, or no recording.
        FetchError: if its disk or mount is away.
    """
    try:
        return probe_audio(path)
    except DecodeError as error:
        if patiently(path, path.exists):
            raise FaultError(Kind.UNREADABLE_AUDIO, str(error)) from error
        raise FaultError(Kind.MISSING_AUDIO, f"{error}{_nearly_so(path)}") from error
    except OSError as error:
        raise FaultError(Kind.UNREADABLE_AUDIO, f"{path}: {error.strerror}") from error


def look_at_midi(path: Path) -> MidiInfo:
    """A MIDI file, parsed.

    Raises:
        FaultError: if the file is missing or no MIDI.
        FetchError: if its disk or mount is away.
    """
    try:
        data = patiently(path, partial(_read_plain, path))
        end_s = end_time(parse_midi(data))
        table = read_notes(data).table
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        reason = f"{path}: no such MIDI file{_nearly_so(path)}"
        raise FaultError(Kind.MISSING_MIDI, reason) from None
    except OSError as error:
        raise FaultError(Kind.UNREADABLE_MIDI, f"{path}: {error.strerror}") from error
    except DecodeError as error:
        raise FaultError(Kind.UNREADABLE_MIDI, f"{path}: {error}") from error
    stops = np.maximum.accumulate(table[:, 0] + table[:, 1])
    begins = np.append(True, table[1:, 0] > stops[:-1])[: len(table)]
    ends = np.append(begins[1:], True)[: len(table)]
    return MidiInfo(
        len(data),
        sha256(data).hexdigest(),
        end_s,
        array("d", table[begins, 0]),
        array("d", stops[ends]),
    )


def _nearly_so(path: Path) -> str:
    """What to add of a missing file that is there under nearly its name: as of another system."""
    if "\\" in path.as_posix():
        return ", and its name has backslashes: write '/' between folders and file"
    for suffix in (path.suffix.lower(), path.suffix.upper()):
        other = path.with_suffix(suffix)
        if other != path and patiently(other, other.exists):
            return f", but {other.name} is there: write the path with {suffix}, or rename the file"
    for form in ("NFC", "NFD"):
        for other in (path.with_name(normalize(form, path.name)), Path(normalize(form, str(path)))):
            if other != path and patiently(other, other.exists):
                return (
                    f", but one whose name looks the same, in Unicode's form {form}: write the "
                    "path in that form, or rename the file"
                )
    return ""


def _read_plain(path: Path) -> bytes:
    """Content of a file; a pipe or a device may have no end."""
    mode = path.stat().st_mode
    if not (S_ISREG(mode) or S_ISDIR(mode)):
        raise FaultError(Kind.UNREADABLE_MIDI, f"{path}: not a file")
    return path.read_bytes()


def same_content(
    infos: Mapping[Path, AudioInfo],
    *,
    threads: int,
    progress: bool,
    at: Callable[[Path], Path] = as_it_is,
) -> dict[Path, Path]:
    """Recordings that are copies of an earlier one, each with that one.

    Only files of one size and length are opened, and only those that are alike in the middle
    are read whole.

    Args:
        at: where to read a recording.
    """
    groups: Iterable[list[Path]] = _alike({path: (i.bytes, i.frames) for path, i in infos.items()})
    for of in (_middle, _whole):
        chosen = [path for group in groups for path in group]
        found = read_ahead(
            chosen,
            partial(_digest, of=of, at=at),
            threads=threads,
            label="comparing audio",
            progress=progress,
        )
        before = {path: number for number, group in enumerate(groups) for path in group}
        groups = _alike({path: (before[path], found[path]) for path in chosen})
    return {path: group[0] for group in groups for path in group[1:]}


def _alike(marks: Mapping[Path, object]) -> list[list[Path]]:
    """Paths of one mark, where there are several."""
    groups: dict[object, list[Path]] = defaultdict(list)
    for path, mark in marks.items():
        groups[mark].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _middle(file: BufferedReader) -> bytes:
    size = file.seek(0, 2)
    file.seek(max(0, (size - _SAMPLED_BYTES) // 2))
    return sha256(file.read(_SAMPLED_BYTES)).digest()


def _whole(file: BufferedReader) -> bytes:
    return hashlib.file_digest(file, "sha256").digest()


def _digest(
    path: Path, *, of: Callable[[BufferedReader], bytes], at: Callable[[Path], Path]
) -> bytes:
    def read() -> bytes:
        with at(path).open("rb") as file:
            return of(file)

    try:
        return patiently(path, read)
    except OSError as error:
        raise FaultError(Kind.UNREADABLE_AUDIO, f"{path}: {error.strerror}") from error
