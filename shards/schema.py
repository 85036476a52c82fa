"""Annotation lines: what one says, whether it may, and under which key its sample is stored."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from shards.errors import AnnotationError
from shards.faults import FaultError, Kind, Rejection
from shards.line import MAX_KEY_BYTES, check_key, check_labels, check_seconds, parse_line, shown
from shards.records import COMPUTED, Layout

_NOT_IN_KEY = re.compile(r"[^A-Za-z0-9_-]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Annotation:
    """One checked line of an annotation file.

    The line is kept as text, which takes a third of the memory of what it is parsed into.

    Attributes:
        line: its number, from 1.
        key: name of the sample, letters, digits, ``-`` and ``_``.
        source: path of the audio (else the MIDI) from the root, or as written if it lies elsewhere.
        own_key: the line names its key itself; else it is made of ``source`` and the start.
        audio, midi: files on this machine; at least one is given.
        start_s, end_s: the segment in seconds; None is the end of the recording.
        text: the line as JSON.
    """

    line: int
    key: str
    source: str
    own_key: bool
    audio: Path | None
    midi: Path | None
    start_s: float
    end_s: float | None
    text: bytes

    @property
    def record(self) -> dict[str, Any]:
        """The line as written, for the sample's JSON."""
        record: dict[str, Any] = json.loads(self.text)
        return record

    @property
    def labels(self) -> dict[str, float | None]:
        """Ratings by name; None is missing."""
        labels = self.record.get("labels") or {}
        return {name: None if value is None else float(value) for name, value in labels.items()}


@dataclass(frozen=True, slots=True)
class Rules:
    """How lines are read.

    Attributes:
        root: folder that relative paths start from.
        rewrite: path prefixes to replace, for annotations written on another machine.
        only: "audio" or "midi" leaves the other out, as if no line named it.
        label_range: lowest and highest value that a label may have.
        like: a record whose fields are all that a line may have, beside a key of its own.
    """

    root: Path
    rewrite: Mapping[str, str] = field(default_factory=dict)
    only: str | None = None
    label_range: tuple[float, float] | None = None
    like: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.only not in (None, "audio", "midi"):
            raise ValueError(f"only must be audio or midi, got {self.only!r}")
        if self.label_range and not self.label_range[0] <= self.label_range[1]:
            raise ValueError(f"label_range must be lowest and highest, got {self.label_range}")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file of annotations says.

    Attributes:
        annotations: in order of the lines, each with a key of its own.
        rejected: lines that are no annotations, in order.
        layout: the fields of all annotations.
    """

    annotations: list[Annotation]
    rejected: list[Rejection]
    layout: Layout

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of all labels in order of first appearance."""
        return self.layout.names("labels")


def read_annotations(path: Path, rules: Rules | None = None) -> Reading:
    """Every line of a JSONL annotation file, checked; no other file is opened.

    Args:
        rules: None takes relative paths from the file's folder.

    Raises:
        AnnotationError: if the file is missing or holds no annotation.
    """
    return check_records(path, read_lines(path), rules or Rules(path.parent))


def check_records(
    source: Path, rows: Iterable[tuple[int, bytes | Rejection]], rules: Rules
) -> Reading:
    """The annotations among rows, and what is wrong with the others.

    Args:
        source: what the rows come from, for errors.
        rows: number and JSON of each, or a fault already found.

    Raises:
        AnnotationError: if there are none.
    """
    reader = _Reader(rules)
    parsed: list[Annotation] = []
    rejected: list[Rejection] = []
    for line, text in rows:
        result = text if isinstance(text, Rejection) else reader.read(line, text)
        if isinstance(result, Rejection):
            rejected.append(result)
        else:
            parsed.append(result)
    if not parsed and not rejected:
        raise AnnotationError(f"{source}: holds no annotation; one JSON object a line is expected")
    unique, duplicates = with_distinct_keys(parsed)
    rejected = sorted([*rejected, *duplicates], key=lambda rejection: rejection.line)
    return Reading(unique, rejected, reader.layout)


def recut(annotation: Annotation, window: tuple[float, float] | None) -> Annotation:
    """The annotation of another part of its recording: its labels and fields for those seconds.

    Args:
        window: start and end in seconds; None is the whole recording.
    """
    start, end = (None, None) if window is None else window
    record = annotation.record
    times = {"start_time": start, "end_time": end}
    record |= {name: time for name, time in times.items() if window or name in record}
    if annotation.own_key:
        key = _key_at(annotation.key, start)
    else:
        key = _source_key(annotation.source, _stem(annotation.source), start)
    text = json.dumps(record, ensure_ascii=False).encode()
    return replace(annotation, key=key, start_s=start or 0.0, end_s=end, text=text)


def other_key(annotation: Annotation) -> str:
    """The key that the annotation would have among other lines: with the hash of its path or not.

    One of the line's own is the same among all lines.
    """
    if annotation.own_key:
        return annotation.key
    source, start = annotation.source, annotation.record.get("start_time")
    plain = _source_key(source, _stem(source), start)
    return _hashed(plain, source) if annotation.key == plain else plain


def with_distinct_keys(
    annotations: Sequence[Annotation],
) -> tuple[list[Annotation], list[Rejection]]:
    """The annotations with keys of their own, and a rejection of each later one of the same key.

    Different source paths that clean to one key get 8 digits of their hash behind it.
    """
    if len({one.key for one in annotations}) == len(annotations):
        return list(annotations), []
    first: dict[str, str] = {}
    ambiguous = set()
    for one in annotations:
        source = "" if one.own_key else one.source
        if first.setdefault(one.key, source) != source:
            ambiguous.add(one.key)
    del first
    lines: dict[str, int] = {}
    unique, rejected = [], []
    for one in annotations:
        if one.key in ambiguous and not one.own_key:
            one = replace(one, key=_hashed(one.key, one.source))
        if lines.setdefault(one.key, one.line) == one.line:
            unique.append(one)
        else:
            reason = f"key {one.key!r} is that of line {lines[one.key]} too"
            rejected.append(Rejection(one.line, reason, one.record, Kind.DUPLICATE_KEY))
    return unique, rejected


@dataclass(frozen=True, slots=True)
class _File:
    """A path of a line: the file it means, its path from the root, and what that gives a key."""

    path: Path
    source: str
    stem: str


class _Reader:
    """Makes annotations of lines; what many lines share is held once."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.layout = Layout(rules.like)
        self._files: dict[str, _File] = {}

    def read(self, line: int, text: bytes) -> Annotation | Rejection:
        record: Any = text
        try:
            record = parse_line(text)
            return self._check(line, record, text)
        except FaultError as fault:
            return Rejection(line, str(fault), shown(record, text), fault.kind)

    def _check(self, line: int, record: dict[str, Any], text: bytes) -> Annotation:
        for name in COMPUTED:
            if name in record:
                reason = f"{name!r} is computed by the packer and cannot be given"
                raise FaultError(Kind.RESERVED, reason)
        audio, midi = self._sources(record)
        start, end = check_seconds(record, "start_time"), check_seconds(record, "end_time")
        if end is not None and end <= (start or 0.0):
            reason = f"'end_time' {end} is not after 'start_time' {start or 0.0}"
            raise FaultError(Kind.TIME, reason)
        if record.get("labels") is not None:
            check_labels(record["labels"], self._rules.label_range)
        file = audio or midi
        assert file is not None
        own_key = check_key(record)
        if self._rules.like is not None and "key" in record.keys() - self._rules.like.keys():
            del record["key"]  # the sample is called so, and the others have no such field
            text = json.dumps(record, ensure_ascii=False).encode()
        self.layout.add(line, record)
        return Annotation(
            line=line,
            key=own_key or _source_key(file.source, file.stem, start),
            source=file.source,
            own_key=bool(own_key),
            audio=audio.path if audio else None,
            midi=midi.path if midi else None,
            start_s=start or 0.0,
            end_s=end,
            text=text,
        )

    def _sources(self, record: Mapping[str, Any]) -> tuple[_File | None, _File | None]:
        audio, midi = self._file(record, "audio_path"), self._file(record, "midi_path")
        if audio is None and midi is None:
            raise FaultError(Kind.NO_PATH, "neither 'audio_path' nor 'midi_path' is given")
        if (only := self._rules.only) is None:
            return audio, midi
        audio, midi = (audio, None) if only == "audio" else (None, midi)
        if audio is None and midi is None:
            raise FaultError(
                Kind.NO_PATH, f"has no '{only}_path', and nothing else is to be packed"
            )
        return audio, midi

    def _file(self, record: Mapping[str, Any], name: str) -> _File | None:
        value = record.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not value or "\0" in value:
            raise FaultError(Kind.NO_PATH, f"{name!r} must be a path, got {value!r}")
        file = self._files.get(value)
        if file is None:
            if not PurePosixPath(value).name:
                raise FaultError(Kind.NO_PATH, f"{name!r}: {value!r} names no file")
            file = self._files[value] = _locate(value, self._rules)
        return file


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and text of every line that is not blank.

    Raises:
        AnnotationError: if the file cannot be read, or is no UTF-8 text.
    """
    try:
        with path.open("rb") as file:
            for line, text in enumerate(file, 1):
                text = text.removeprefix(_BYTE_ORDER_MARK) if line == 1 else text
                if text := text.strip():
                    text.decode()
                    yield line, text
    except FileNotFoundError:
        raise AnnotationError(f"{path}: no such annotation file") from None
    except IsADirectoryError:
        raise AnnotationError(f"{path}: is a folder; a JSONL file is expected") from None
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not UTF-8 text: line {line}: {error}") from error
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from error


def _locate(value: str, rules: Rules) -> _File:
    path = rules.root / _rewritten(value, rules.rewrite)
    inside = path.is_relative_to(rules.root)
    source = path.relative_to(rules.root).as_posix() if inside else value
    return _File(path, source, _stem(source))


def _rewritten(path: str, rewrite: Mapping[str, str]) -> str:
    for old, new in rewrite.items():
        if path.startswith(old):
            return new + path[len(old) :]
    return path


def _stem(source: str) -> str:
    """The path without its suffix, other characters as ``-``."""
    return _NOT_IN_KEY.sub("-", PurePosixPath(source).with_suffix("").as_posix())


def _source_key(source: str, stem: str, start: float | None) -> str:
    """The cleaned path and the start in milliseconds."""
    suffix = _suffix(start)
    room = MAX_KEY_BYTES - len(suffix) - 9  # for a hash, should the key need one
    if len(stem) > room:
        stem = f"{stem[: room - 9]}-{_short_hash(source)}"
    return stem + suffix


def _key_at(key: str, start: float | None) -> str:
    """A key of the user's own with the start in milliseconds, shortened where there is no room."""
    suffix = _suffix(start)
    room = MAX_KEY_BYTES - len(suffix)
    return (key if len(key) <= room else f"{key[: room - 9]}-{_short_hash(key)}") + suffix


def _hashed(key: str, source: str) -> str:
    return f"{key}-{_short_hash(source)}"


def _suffix(start: float | None) -> str:
    return "" if start is None else f"-{round(start * 1000)}"


def _short_hash(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
