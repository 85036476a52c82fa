"""What annotations may come from: JSON lines, the metadata of MAESTRO and ASAP, paired files."""

import csv
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from unicodedata import normalize

from shards.errors import AnnotationError
from shards.faults import Kind, Rejection
from shards.records import COMPUTED
from shards.schema import Reading, Rules, check_records, read_annotations

_MAESTRO = {"audio_filename": "audio_path", "midi_filename": "midi_path"}
_ASAP = {"audio_performance": "audio_path", "midi_performance": "midi_path"}
_TABLES = ("annotations.jsonl", "maestro-v*.csv", "maestro-v*.json", "metadata.csv")
_AUDIO = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff"}
_MIDI = {".mid", ".midi"}
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")  # and no 007, which is a name
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,16})(\.[0-9]+)?(e-?[0-9]{1,2})?")

Rows = Iterable[tuple[int, bytes | Rejection]]


def rules_for(
    path: Path,
    root: Path | None = None,
    rewrite: Mapping[str, str] | None = None,
    only: str | None = None,
    label_range: tuple[float, float] | None = None,
    like: Mapping[str, Any] | None = None,
) -> Rules:
    """How an input is read; relative paths start from its folder if no root is given."""
    folder = path if path.is_dir() else path.parent
    return Rules(Path(os.path.abspath(root or folder)), rewrite or {}, only, label_range, like)


def read_input(path: Path, rules: Rules) -> Reading:
    """Annotations of an input, checked; recordings and MIDI files are not opened.

    Args:
        path: JSON lines; ``maestro-v3.0.0.csv`` or ``.json``, ASAP's ``metadata.csv``; a folder
            that holds one of these; or any other folder, for its audio and MIDI files.

    Raises:
        AnnotationError: if it is none of these, or holds no annotation.
    """
    if path.is_dir():
        table = _table_in(path)
        if table is None:
            return check_records(path, _pairs(path, rules.only), rules)
        path = table
    if path.suffix == ".csv":
        return check_records(path, _csv_rows(path), rules)
    if path.suffix == ".json":
        return check_records(path, _json_rows(path), rules)
    return read_annotations(path, rules)


def _table_in(folder: Path) -> Path | None:
    """The metadata table that a folder comes with."""
    found = (sorted(folder.glob(pattern)) for pattern in _TABLES)
    tables = next((some for some in found if some), [])
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise AnnotationError(f"{folder}: holds {names}; name the one that is meant")
    return tables[0] if tables else None


def _csv_rows(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = _paths_of(path, reader.fieldnames or ())
            cells: list[dict[str, str | None]] = []
            lines: list[int] = []
            for row in reader:
                if None in row or None in row.values():
                    raise AnnotationError(
                        f"{path}:{reader.line_num}: has not the {len(reader.fieldnames or ())} "
                        "columns of the first line"
                    )
                cells.append(row)
                lines.append(reader.line_num)
    except FileNotFoundError:
        raise AnnotationError(f"{path}: no such annotation file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{path}: no table of comma-separated values: {error}") from error
    columns = {name: _typed([row[name] for row in cells]) for name in reader.fieldnames or ()}
    for place, line in enumerate(lines):
        yield line, _record({name: column[place] for name, column in columns.items()}, names)


def _json_rows(path: Path) -> Iterator[tuple[int, bytes]]:
    """Rows of MAESTRO's JSON: an object of columns, each an object by row number."""
    try:
        columns = json.loads(path.read_bytes())
        if isinstance(columns, list):
            raise AnnotationError(
                f"{path}: is a JSON array; write JSON lines, one object a line, in a .jsonl file: "
                f"jq -c '.[]' {path.name} > {path.stem}.jsonl"
            )
        rows = {row: None for column in columns.values() for row in column}
        records = [{name: column[row] for name, column in columns.items()} for row in rows]
    except FileNotFoundError:
        raise AnnotationError(f"{path}: no such annotation file") from None
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise AnnotationError(
            f"{path}: no metadata of MAESTRO (an object of columns): {error!r}. Annotations are "
            "JSON lines, in a .jsonl file"
        ) from error
    names = _paths_of(path, columns)
    for line, record in enumerate(records, 1):
        yield line, _record(record, names)


def _paths_of(path: Path, columns: Iterable[str]) -> Mapping[str, str]:
    """Which columns name files, and as what."""
    for names in (_MAESTRO, _ASAP):
        if names.keys() <= set(columns):
            return names
    raise AnnotationError(
        f"{path}: has the columns {', '.join(columns) or 'none'}; MAESTRO's metadata has "
        f"{' and '.join(_MAESTRO)}, ASAP's {' and '.join(_ASAP)}. Write anything else as JSON lines"
    )


def _record(row: Mapping[str, Any], names: Mapping[str, str]) -> bytes:
    """A row as an annotation line: paths first, other columns as they are."""
    paths = {new: row[old] or None for old, new in names.items()}
    others = {
        f"source_{name}" if name in COMPUTED else name: value
        for name, value in row.items()
        if name not in names
    }
    return json.dumps(paths | others, ensure_ascii=False).encode()


def _typed(cells: Sequence[str | None]) -> list[Any]:
    """A column as numbers if all of its cells are such; empty cells are null."""
    for number, kind in ((_INTEGER, int), (_NUMBER, float)):
        if all(number.fullmatch(cell) for cell in cells if cell):
            return [kind(cell) if cell else None for cell in cells]
    return [cell or None for cell in cells]


def _pairs(folder: Path, only: str | None) -> Iterator[tuple[int, bytes | Rejection]]:
    """Audio and MIDI files of one name; all of one kind if there is none of the other.

    Two files are a pair if their paths are alike but for the suffix, or also but for the name of
    one folder: ``audio/x.wav`` and ``midi/x.mid``.
    """
    audio, midi = _walk(folder)
    if only is not None:
        audio, midi = (audio, {}) if only == "audio" else ({}, midi)
    if not audio and not midi:
        raise AnnotationError(f"{folder}: holds neither audio nor MIDI files, nor a metadata table")
    partner = _matched(audio, midi)
    taken = set(partner.values())
    lone = [path for path in midi if path not in taken]
    for line, path in enumerate(sorted([*audio, *lone]), 1):
        paths = {"audio_path": path if path in audio else None}
        paths["midi_path"] = partner.get(path) if path in audio else path
        if odd := [name for name in paths.values() if name and not _is_text(name)]:
            reason = f"{odd[0]!r}: its name is not UTF-8; rename it"
            yield line, Rejection(line, reason, {"path": repr(odd[0])}, Kind.NO_PATH)
            continue
        if audio and midi and None in paths.values():
            missing = "MIDI" if path in audio else "audio"
            yield line, Rejection(line, f"{path}: no {missing} of its name", paths, Kind.UNPAIRED)
        else:
            yield line, json.dumps(paths, ensure_ascii=False).encode()


def _walk(folder: Path) -> tuple[dict[str, None], dict[str, None]]:
    """Audio and MIDI files below a folder and those that it links to, as paths from it, sorted."""
    found: list[str] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder above would lead round and round
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = Path(parent).relative_to(folder)
        found += [(base / name).as_posix() for name in names if not name.startswith(".")]
    by_suffix: dict[str, list[str]] = defaultdict(list)
    for path in sorted(found):
        by_suffix[PurePosixPath(path).suffix.lower()].append(path)
    audio = sorted(path for suffix in _AUDIO for path in by_suffix.get(suffix, ()))
    midi = sorted(path for suffix in _MIDI for path in by_suffix.get(suffix, ()))
    return dict.fromkeys(audio), dict.fromkeys(midi)


def _is_text(path: str) -> bool:
    """Whether the bytes of a path are UTF-8, as the lines of a dataset are."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse(error: OSError) -> None:
    raise error


def _matched(audio: Iterable[str], midi: Iterable[str]) -> dict[str, str]:
    """The MIDI file of each audio file that has one, and no two of them."""
    same = {_without_suffix(path): path for path in midi}
    pairs = {path: same[name] for path in audio if (name := _without_suffix(path)) in same}
    pairs = _one_to_one(pairs.items())
    taken = set(pairs.values())
    beside: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path in midi:
        if path not in taken:
            for pattern in _patterns(path):
                beside[pattern].append(path)
    parallel = (
        (path, other)
        for path in audio
        if path not in pairs
        for pattern in _patterns(path)
        for other in beside.get(pattern, ())
    )
    return pairs | _one_to_one(parallel)


def _one_to_one(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Those of the pairs in which either has no other partner."""
    of_audio: dict[str, set[str]] = defaultdict(set)
    of_midi: dict[str, set[str]] = defaultdict(set)
    for audio, midi in pairs:
        of_audio[audio].add(midi)
        of_midi[midi].add(audio)
    only = ((audio, next(iter(found))) for audio, found in of_audio.items() if len(found) == 1)
    return {audio: midi for audio, midi in only if len(of_midi[midi]) == 1}


def _without_suffix(path: str) -> str:
    """Alike for names that look alike: macOS may have written one of a pair, Linux the other."""
    return normalize("NFC", PurePosixPath(path).with_suffix("").as_posix())


def _patterns(path: str) -> Iterator[tuple[str, ...]]:
    """The path without its suffix, with each one of its folders left open."""
    parts = PurePosixPath(_without_suffix(path)).parts
    for place in range(len(parts) - 1):
        yield (*parts[:place], "*", *parts[place + 1 :])
