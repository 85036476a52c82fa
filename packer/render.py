"""Turn MIDI files into recordings, and annotations of MIDI alone into a corpus with audio."""

import functools
import importlib.util
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile
from symusic.core import ScoreSecond, ScoreTick

from packer.audio import pcm16_options
from packer.lines import appearing, write_lines
from packer.report import Report
from packer.spread import spread
from packer.synth import SAMPLE_RATE, Piano, Sound
from shards.errors import DataError, DecodeError
from shards.faults import FaultError, Kind, Rejection
from shards.line import parse_line
from shards.notes import parse_midi
from shards.pcm import INT16_SCALE
from shards.schema import read_lines

log = logging.getLogger("packer")

# One gain for every file, so that loud stays louder than soft. With it the loudest of the 1,188
# performances of PercePiano peaks at 0.99.
GAIN = np.float32(1.5)
FORMATS = ("flac", "wav")  # Ogg is left out: libsndfile numbers its streams at random
_UNFIT = "lines cannot be rendered"


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording to make, and the line that asks for it first."""

    line: int
    source: Path
    midi: Path
    audio: Path


@dataclass(frozen=True, slots=True)
class Made:
    """What became of a recording: how many values were clipped, or why there is none."""

    clipped: int
    fault: Rejection | None


def soundfont_path() -> Path:
    """Return the SoundFont inside the installed pretty_midi, which is not imported.

    Raises:
        DataError: if pretty_midi or the file is missing.
    """
    spec = importlib.util.find_spec("pretty_midi")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).with_name("TimGM6mb.sf2")
        if path.is_file():
            return path
    raise DataError("no SoundFont: pretty_midi brings TimGM6mb.sf2; pip install pretty_midi")


def render_midi(midi: Path | ScoreTick, *, soundfont: Path | None = None) -> Sound:
    """Return (frames, 2) float32 at 44.1 kHz, scaled by GAIN alone, so beyond [-1, 1] at worst.

    Args:
        midi: a file, or a score as symusic reads one.
        soundfont: whose first program plays; None takes ``soundfont_path()``.

    Raises:
        DecodeError: if the file cannot be read as MIDI.
        DataError: if there is no SoundFont, or symusic cannot render.
    """
    score = midi if isinstance(midi, ScoreTick) else _read(midi)
    seconds = cast(ScoreSecond, score.to("second"))
    return _piano(soundfont or soundfont_path()).play(seconds) * GAIN


def write_pcm16(path: Path, sound: Sound, *, audio_format: str = "flac") -> int:
    """Write (frames, channels) float32 as 16-bit audio; return how many values were clipped.

    Rounded, never dithered or normalised. The folder is made, and the file appears by rename.
    """
    scaled = np.rint(sound * np.float32(INT16_SCALE))
    clipped = int(np.count_nonzero((scaled < -32768) | (scaled > 32767)))
    pcm = np.clip(scaled, -32768, 32767).astype(np.int16)
    with appearing(path) as partial:
        soundfile.write(partial, pcm, SAMPLE_RATE, **pcm16_options(audio_format))
    return clipped


def render_annotations(
    annotations: Path,
    out: Path,
    *,
    root: Path | None = None,
    audio_format: str = "flac",
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Make a corpus with audio of annotations that name MIDI alone; return its annotation file.

    ``out`` gets ``audio/NAME.flac``, ``midi/NAME.mid`` and, last, ``annotations.jsonl`` in the
    order of the lines, with all their keys, and paths relative to ``out``. NAME is the MIDI's path
    below ``root``, less a leading ``midi/``. Files that several lines share are rendered once,
    those rendered by an earlier run not again. A line that has audio keeps it, as absolute paths.
    A MIDI file that cannot be rendered stops none of the others.

    Args:
        annotations: JSON lines.
        out: the folder of the corpus, made when missing.
        root: what relative paths are relative to; None is the annotation file's folder.
        audio_format: "flac" or "wav".
        workers: processes; None takes one a core, 0 this one.
        progress: whether to draw a progress bar.

    Raises:
        AnnotationError: if lines are no annotations, before anything is written; or, after all
            others are rendered, if MIDI cannot be read or has no notes.
        ValueError: if ``audio_format`` is another one, ``out`` would replace the annotations, or
            holds another corpus.
    """
    if audio_format not in FORMATS:
        raise ValueError(f"audio_format must be one of {', '.join(FORMATS)}, got {audio_format!r}")
    target = out / "annotations.jsonl"
    if target.resolve() == annotations.resolve():
        raise ValueError(f"out must be another folder than the annotations', got {out}")
    root = annotations.parent if root is None else root
    lines, jobs = _layout(annotations, root=root, out=out, suffix=f".{audio_format}")
    _refuse_other(target, lines)
    todo = [job for job in jobs if not _is_done(job)]
    log.info("%d recordings to make, %d made before", len(todo), len(jobs) - len(todo))
    made = list(spread(_record, todo, workers=workers, label="recordings", progress=progress))
    if clipped := sum(1 for one in made if one.clipped):
        log.warning("%d of %d recordings clip", clipped, len(made))
    faults = [one.fault for one in made if one.fault is not None]
    Report(annotations, len(lines), None, faults, _UNFIT).check()
    write_lines(target, lines)
    return target


def _layout(
    annotations: Path, *, root: Path, out: Path, suffix: str
) -> tuple[list[dict[str, Any]], list[Recording]]:
    """Return the lines of the corpus, and the recordings it takes, each once."""
    recordings: dict[Path, Recording] = {}  # by audio file
    lines: list[dict[str, Any]] = []
    rejected: list[Rejection] = []
    for number, text in read_lines(annotations):
        try:
            line = parse_line(text)
            if line.get("audio_path") is not None:
                lines.append(_anchored(line, root))
                continue
            recording = _plan(number, line, root=root, out=out, suffix=suffix)
            first = recordings.setdefault(recording.audio, recording)
            if first.source != recording.source:
                reason = f"{recording.source} and {first.source} need one name"
                raise FaultError(Kind.DUPLICATE_KEY, reason)
        except FaultError as fault:
            rejected.append(Rejection(number, str(fault), text.decode(), fault.kind))
            continue
        paths = {
            "audio_path": recording.audio.relative_to(out).as_posix(),
            "midi_path": recording.midi.relative_to(out).as_posix(),
        }
        lines.append(paths | line | paths)  # first in order, and not the line's own
    Report(annotations, len(lines) + len(rejected), None, rejected, _UNFIT).check()
    return lines, list(recordings.values())


def _refuse_other(target: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to replace the annotations of another corpus, whose recordings would stay behind."""
    if not target.exists():
        return
    names = {line.get("midi_path") for line in lines}
    for _, text in read_lines(target):
        if (name := parse_line(text).get("midi_path")) not in names:
            raise ValueError(f"{target}: is of another corpus, with {name}; choose another folder")


def _plan(line: int, record: Mapping[str, Any], *, root: Path, out: Path, suffix: str) -> Recording:
    """Return the recording a line asks for."""
    midi_path = record.get("midi_path")
    if not isinstance(midi_path, str) or "\0" in midi_path:
        raise FaultError(Kind.NO_PATH, f"midi_path must be a string, got {midi_path!r}")
    source = Path(os.path.abspath(root / midi_path))
    name = Path(os.path.relpath(source, os.path.abspath(root)))
    if not name.parts:
        raise FaultError(Kind.NO_PATH, f"{midi_path!r} is a folder, and no MIDI file")
    if name.parts[0] == "..":
        reason = f"{midi_path} lies outside of {root}; give a root above it"
        raise FaultError(Kind.NO_PATH, reason)
    if name.parts[0] == "midi" and len(name.parts) > 1:
        name = name.relative_to("midi")
    return Recording(line, source, out / "midi" / name, out / "audio" / name.with_suffix(suffix))


def _anchored(line: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return the line with absolute paths, so that they hold in another folder."""
    paths = {name: line[name] for name in ("audio_path", "midi_path") if line.get(name) is not None}
    return {**line, **{name: os.path.abspath(root / path) for name, path in paths.items()}}


def _record(job: Recording) -> Made:
    """Render one file."""
    try:
        sound = render_midi(job.source)
        if not len(sound):
            raise DecodeError(f"{job.source}: no notes to render")
    except (DecodeError, OSError) as error:
        reason = str(error)
        return Made(0, Rejection(job.line, reason, str(job.source), Kind.UNREADABLE_MIDI))
    clipped = write_pcm16(job.audio, sound, audio_format=job.audio.suffix[1:])
    with appearing(job.midi) as partial:  # after the audio: it says that the audio is done
        shutil.copyfile(job.source, partial)
    return Made(clipped, None)


def _is_done(job: Recording) -> bool:
    """Whether the audio stands beside a true copy of the MIDI."""
    if not all(path.is_file() for path in (job.source, job.midi, job.audio)):
        return False
    return job.midi.read_bytes() == job.source.read_bytes()


def _read(midi: Path) -> ScoreTick:
    try:
        return cast(ScoreTick, parse_midi(midi.read_bytes()))
    except OSError as error:
        raise DecodeError(f"{midi}: not a readable MIDI file: {error}") from error
    except DecodeError as error:
        raise DecodeError(f"{midi}: {error}") from error


@functools.cache
def _piano(soundfont: Path) -> Piano:
    """Return the process's piano, as its tones take a second to render."""
    return Piano(soundfont)
