"""A dataset at a glance: its samples one by one, and what they are like together."""

import json
import math
import re
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from tqdm import tqdm

from packer.portrait import read_record
from packer.splits import Dataset
from packer.target import Target
from shards.members import fields_of
from shards.reader import ShardReader

REJECTED = "rejected.jsonl"
_BINS = 24
_OPEN = 8  # shards at a time; the copies of remote ones are removed with them
_LONGEST_REASON = 400
_PARTICULARS = re.compile(r"'[^']*'|\"[^\"]*\"|\S*/\S*|[0-9]+(?:\.[0-9]+)?")
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample of the list.

    Attributes:
        shard, row: where it is stored.
        seconds: None if its JSON does not say.
        labels: those that are numbers.
        text: key and JSON in small letters, to search in.
        audio_bytes: of its audio member.
    """

    shard: int
    row: int
    key: str
    seconds: float | None
    labels: Mapping[str, float]
    text: str
    audio_bytes: int


class Shards:
    """The shards of a dataset, to read samples from; a remote one is copied when first needed.

    Threads may share it; they read one at a time.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._target, self._infos = dataset.target, dataset.manifest.shards
        self._folder = tempfile.TemporaryDirectory(prefix="view-")
        self._readers: OrderedDict[int, tuple[ShardReader, Path]] = OrderedDict()
        self._lock = threading.Lock()

    def entries(self, shard: int) -> list[Entry]:
        """All samples of a shard.

        Raises:
            ShardError: if it is damaged.
        """
        with self._lock:
            reader = self._reader(shard)
            return [_entry(reader, shard, row) for row in range(len(reader))]

    def read(self, entry: Entry) -> dict[str, bytes]:
        """The members of a sample by extension.

        Raises:
            ShardError: if its shard is damaged.
        """
        with self._lock:
            return self._reader(entry.shard).read(entry.row)

    def close(self) -> None:
        for reader, _ in self._readers.values():
            reader.close()
        self._readers.clear()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _reader(self, shard: int) -> ShardReader:
        if shard not in self._readers:
            while len(self._readers) >= _OPEN:
                self._drop(*self._readers.popitem(last=False)[1])
            info = self._infos[shard]
            path = self._target.fetch(info.url, Path(self._folder.name))
            self._readers[shard] = ShardReader(path, samples=info.nsamples), path
        self._readers.move_to_end(shard)
        return self._readers[shard][0]

    def _drop(self, reader: ShardReader, path: Path) -> None:
        reader.close()
        if path.is_relative_to(self._folder.name):
            path.unlink()


def survey(
    dataset: Dataset, shards: Shards, *, most: int | None, progress: bool = True
) -> list[Entry]:
    """The samples of a dataset in stored order, or of ``most`` of its shards, evenly chosen."""
    numbers = range(len(dataset.manifest.shards))
    chosen = numbers if most is None else evenly(numbers, most)
    bar = tqdm(chosen, "reading", unit=" shards", disable=not progress, leave=False)
    return [entry for number in bar for entry in shards.entries(number)]


def evenly(items: Sequence[_Item], count: int) -> Sequence[_Item]:
    """``count`` of the items, evenly spaced and in order; all if there are no more."""
    if len(items) <= count:
        return items
    return [items[place * len(items) // count] for place in range(count)]


def overview(dataset: Dataset, entries: Sequence[Entry]) -> dict[str, Any]:
    """What a page says of a dataset, as JSON values.

    Statistics are the manifest's, over all samples; histograms are over the entries.
    """
    manifest = dataset.manifest
    seconds = [entry.seconds for entry in entries if entry.seconds is not None]
    return {
        "title": manifest.name,
        "description": manifest.description,
        "samples": manifest.samples,
        "seconds": manifest.duration_s,
        "shards": len(manifest.shards),
        "bytes": manifest.bytes,
        "surveyed": len(entries),
        "fields": dict(manifest.fields),
        "options": [[name, _told(value)] for name, value in manifest.options.items()],
        "version": manifest.packer_version,
        "durations": histogram(seconds),
        "labels": [
            {
                "name": name,
                **asdict(stats),
                **histogram([entry.labels[name] for entry in entries if name in entry.labels]),
            }
            for name, stats in manifest.labels.items()
        ],
    }


def histogram(values: Sequence[float]) -> dict[str, Any]:
    """``bins``, how many values are in each, and ``low`` and ``high``, where the first and the
    last one end; no bins without values."""
    if not values:
        return {"low": 0.0, "high": 0.0, "bins": []}
    low, high = min(values), max(values)
    if math.isclose(low, high, abs_tol=1e-12):
        return {"low": low, "high": high, "bins": [len(values)]}
    counts, _ = np.histogram(values, bins=_BINS, range=(low, high))
    return {"low": low, "high": high, "bins": counts.tolist()}


def rejections(target: Target) -> list[list[Any]]:
    """(kind, count) of what was left out, the most frequent first; else the reason in general."""
    try:
        lines = target.read(REJECTED).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    records = (read_record(line.encode()) for line in lines)
    counts = Counter(
        str(record.get("kind") or _general(record.get("reason", ""))) for record in records
    )
    return [[reason, count] for reason, count in counts.most_common()]


def _general(reason: Any) -> str:
    """A reason without what is particular to a line; of a very long one the beginning."""
    return _PARTICULARS.sub("…", str(reason)[:_LONGEST_REASON])


def found(entries: Sequence[Entry], words: str) -> Iterator[int]:
    """Numbers of the entries that hold all of some words."""
    wanted = words.lower().split()
    return (n for n, entry in enumerate(entries) if all(word in entry.text for word in wanted))


def _entry(reader: ShardReader, shard: int, row: int) -> Entry:
    members = {member.extension: member for member in reader.members(row)}
    key, meta = reader.members(row)[0].key, members.get("json")
    record = {} if meta is None else read_record(reader.read_at(meta.start, meta.size))
    audio = members.get(fields_of(members).get("audio", ""))
    labels = record.get("labels")
    return Entry(
        shard,
        row,
        key,
        _number(record.get("duration")),
        {
            name: number
            for name, value in (labels.items() if isinstance(labels, dict) else ())
            if (number := _number(value)) is not None
        },
        f"{key} {json.dumps(record, ensure_ascii=False)}".lower(),
        0 if audio is None else audio.size,
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
