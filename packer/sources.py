"""The recordings and MIDI files that lines name: looked at, all of them in one pass."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TypeVar

from packer.audio import AudioInfo
from packer.copies import Copies
from packer.inspection import MidiInfo, look_at_audio, look_at_midi, read_ahead
from shards.faults import FaultError
from shards.schema import Annotation

Info = TypeVar("Info", AudioInfo, MidiInfo)
Look = Callable[[Path], AudioInfo | MidiInfo]


@dataclass(frozen=True, slots=True)
class Sources:
    """What is known of every file, or what is wrong with it."""

    audio: Mapping[Path, AudioInfo | FaultError]
    midi: Mapping[Path, MidiInfo | FaultError]

    def audio_of(self, annotation: Annotation) -> AudioInfo | None:
        """Raise FaultError if the recording is not good."""
        return None if annotation.audio is None else _good(self.audio[annotation.audio])

    def midi_of(self, annotation: Annotation) -> MidiInfo | None:
        """Raise FaultError if the MIDI file is not good."""
        return None if annotation.midi is None else _good(self.midi[annotation.midi])


def look_at(
    annotations: Sequence[Annotation], *, threads: int, copies: Copies | None, progress: bool
) -> Sources:
    """Look at recordings and MIDI in one pass, as one waits for the link, the other for answers.

    It goes from folder to folder: many mounts look up the files of one after another.

    Args:
        threads: files opened at a time.
        copies: keeps those of files on mounts; None reads all files where they are.
    """

    def look(file: tuple[Look, Path]) -> AudioInfo | MidiInfo:
        return copies.look(*file) if copies else file[0](file[1])

    looks: tuple[Look, Look] = (look_at_audio, look_at_midi)
    files = dict.fromkeys(
        (look, path)
        for annotation in annotations
        for look, path in zip(looks, (annotation.audio, annotation.midi), strict=True)
        if path is not None
    )
    numbers: dict[Path, Iterator[int]] = defaultdict(count)
    places = {file: next(numbers[file[1].parent]) for file in files}
    across = sorted(files, key=places.__getitem__)
    found = read_ahead(across, look, threads=threads, label="sources", progress=progress)
    audio: dict[Path, AudioInfo | FaultError] = {}
    midi: dict[Path, MidiInfo | FaultError] = {}
    for (kind, path), info in found.items():
        if kind is look_at_audio:
            assert not isinstance(info, MidiInfo)
            audio[path] = info
        else:
            assert not isinstance(info, AudioInfo)
            midi[path] = info
    return Sources(audio, midi)


def _good(info: Info | FaultError) -> Info:
    if isinstance(info, FaultError):
        raise info
    return info
