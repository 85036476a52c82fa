"""Annotation lines: what one says, whether it may, and under which key its sample is stored."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from shards.errors import AnnotationError
from shards.records import COMPUTED, require_one_type

MAX_KEY_BYTES = 88  # KEY.notes.npy has to fit the 100 bytes of a USTAR name
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MAX_SECONDS = 10**9  # thirty years: beyond it is a slip of the pen, and of the arithmetic
_NOT_IN_KEY = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Annotation:
    """One checked line of an annotation file.

    Attributes:
        line: its number, from 1.
        key: name of the sample, letters, digits, ``-`` and ``_``.
        source: path that the key was made of; empty if the line names its key itself.
        audio, midi: files on this machine; at least one is given.
        start_s, end_s: the segment in seconds; None is the end of the recording.
        labels: ratings by name; None is missing.
        record: the line as written, for the sample's JSON.
    """

    line: int
    key: str
    source: str
    audio: Path | None
    midi: Path | None
    start_s: float
    end_s: float | None
    labels: Mapping[str, float | None]
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rejection:
    """An annotation that cannot be packed: which line, why, and what it said."""

    line: int
    reason: str
    record: Any


def read_annotations(
    path: Path, *, root: Path | None = None, rewrite: Mapping[str, str] | None = None
) -> tuple[list[Annotation], list[Rejection]]:
    """Every line of a JSONL annotation file, checked; no other file is opened.

    Args:
        root: folder that relative paths start from; None is the file's own.
        rewrite: path prefixes to replace, for annotations written on another machine.

    Raises:
        AnnotationError: if the file is missing, holds no annotation, or a field has one type on
            one line and another on another (both lines are named).
    """
    root = path.parent if root is None else root
    parsed: list[Annotation] = []
    rejected: list[Rejection] = []
    for line, text in _lines(path):
        record: Any = text
        try:
            record = _parse(text)
            parsed.append(_check(line, record, root=root, rewrite=rewrite or {}))
        except ValueError as error:
            rejected.append(Rejection(line, str(error), record))
    if not parsed and not rejected:
        raise AnnotationError(f"{path}: holds no annotation; one JSON object a line is expected")
    unique, duplicates = _unique(_distinct(parsed))
    require_one_type(path, {annotation.line: annotation.record for annotation in unique})
    return unique, sorted([*rejected, *duplicates], key=lambda rejection: rejection.line)


def label_names(annotations: list[Annotation]) -> tuple[str, ...]:
    """Names of all labels in order of first appearance."""
    return tuple(dict.fromkeys(name for a in annotations for name in a.labels))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line, text in enumerate(file, 1):
                if text.strip():
                    yield line, text.rstrip()
    except FileNotFoundError:
        raise AnnotationError(f"{path}: no such annotation file") from None
    except IsADirectoryError:
        raise AnnotationError(f"{path}: is a folder; a JSONL file is expected") from None
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not UTF-8 text: {error}") from error
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from error


def _parse(text: str) -> dict[str, Any]:
    try:
        record = json.loads(
            text, parse_constant=_no_constant, parse_float=_finite, parse_int=_int64
        )
    except RecursionError:
        raise ValueError("not JSON: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(record, dict):
        raise ValueError(f"not a JSON object but {type(record).__name__}")
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise ValueError(f"not Unicode text: {half} is half of a surrogate pair") from None
    return record


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON; null says that a value is missing")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is out of range")
    return value


def _int64(text: str) -> int:
    value = int(text) if len(text) <= 20 else 2**63
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{text[:20]}... is out of range: an integer has at most 64 bits")
    return value


def _check(
    line: int, record: dict[str, Any], *, root: Path, rewrite: Mapping[str, str]
) -> Annotation:
    """The annotation of a line; ValueError says what is wrong with it."""
    if reserved := [name for name in COMPUTED if name in record]:
        raise ValueError(f"{reserved[0]!r} is computed by the packer and cannot be given")
    audio = _path(record, "audio_path", root, rewrite)
    midi = _path(record, "midi_path", root, rewrite)
    if audio is None and midi is None:
        raise ValueError("neither 'audio_path' nor 'midi_path' is given")
    start = _seconds(record, "start_time")
    end = _seconds(record, "end_time")
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"'end_time' {end} is not after 'start_time' {start or 0.0}")
    own = _own_key(record)
    source = "" if own else _source(record, (audio or midi), root)
    key = own or _source_key(source, start)
    return Annotation(line, key, source, audio, midi, start or 0.0, end, _labels(record), record)


def _path(
    record: Mapping[str, Any], name: str, root: Path, rewrite: Mapping[str, str]
) -> Path | None:
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{name!r} must be a path, got {value!r}")
    if not PurePosixPath(value).name:
        raise ValueError(f"{name!r}: {value!r} names no file")
    return root / _rewritten(value, rewrite)


def _rewritten(path: str, rewrite: Mapping[str, str]) -> str:
    for old, new in rewrite.items():
        if path.startswith(old):
            return new + path[len(old) :]
    return path


def _seconds(record: Mapping[str, Any], name: str) -> float | None:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name!r} must be a number of seconds, got {value!r}")
    if value < 0:
        raise ValueError(f"{name!r} must not be negative, got {value}")
    if value > _MAX_SECONDS:
        raise ValueError(f"{name!r} must be at most {_MAX_SECONDS} seconds, got {value}")
    return float(value)


def _labels(record: Mapping[str, Any]) -> dict[str, float | None]:
    labels = record.get("labels")
    if labels is None:
        return {}
    if not isinstance(labels, dict):
        raise ValueError(f"'labels' must be an object of numbers, got {labels!r}")
    return {name: _label(name, value) for name, value in labels.items()}


def _label(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"label {name!r} must be a number or null, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(
            f"label {name!r} must be finite, got {value}; null says that it is missing"
        )
    return float(value)


def _own_key(record: Mapping[str, Any]) -> str | None:
    own = record.get("key")
    if own is None:
        return None
    if not isinstance(own, str) or not _KEY.fullmatch(own) or len(own) > MAX_KEY_BYTES:
        raise ValueError(
            f"'key' must be 1 to {MAX_KEY_BYTES} letters, digits, '-' and '_', got {own!r}"
        )
    return own


def _source(record: Mapping[str, Any], file: Path | None, root: Path) -> str:
    """Path of the audio (else MIDI) from the root, or as written if it lies elsewhere."""
    if file is not None and file.is_relative_to(root):
        return file.relative_to(root).as_posix()
    return str(record.get("audio_path") or record["midi_path"])


def _source_key(source: str, start: float | None) -> str:
    """The path without its suffix, other characters as ``-``, and the start in milliseconds."""
    cleaned = _NOT_IN_KEY.sub("-", PurePosixPath(source).with_suffix("").as_posix())
    suffix = "" if start is None else f"-{round(start * 1000)}"
    room = MAX_KEY_BYTES - len(suffix) - 9  # for a hash, should the key need one
    if len(cleaned) > room:
        cleaned = f"{cleaned[: room - 9]}-{_short_hash(source)}"
    return cleaned + suffix


def _short_hash(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _distinct(annotations: list[Annotation]) -> list[Annotation]:
    """Different source paths that clean to one key get 8 digits of their hash behind it."""
    sources: dict[str, set[str]] = {}
    for annotation in annotations:
        sources.setdefault(annotation.key, set()).add(annotation.source)
    return [
        replace(a, key=f"{a.key}-{_short_hash(a.source)}")
        if a.source and len(sources[a.key]) > 1
        else a
        for a in annotations
    ]


def _unique(annotations: list[Annotation]) -> tuple[list[Annotation], list[Rejection]]:
    """The first annotation of each key, and a rejection of each later one."""
    first: dict[str, Annotation] = {}
    rejected = []
    for annotation in annotations:
        other = first.setdefault(annotation.key, annotation)
        if other is not annotation:
            reason = f"key {annotation.key!r} is that of line {other.line} too"
            rejected.append(Rejection(annotation.line, reason, annotation.record))
    return list(first.values()), rejected
