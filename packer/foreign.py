"""Makes manifest, indexes and ``keys.bin`` for tars that somebody else wrote."""

import hashlib
import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import soundfile

from packer.spread import spread
from packer.summary import label_stats
from packer.target import Target
from shards import values
from shards.errors import ManifestError, ShardError
from shards.hints import COMPRESSED, UNPACK, hint_at_labels, hint_at_members
from shards.index import index_bytes
from shards.keys import KEYS, keys_bytes
from shards.manifest import NAME, Manifest, ShardInfo, dump_manifest, load_manifest
from shards.members import AUDIO, fields_of
from shards.reader import ShardReader
from shards.tar import Member

_OPTIONS = {"indexed": True}  # by it a manifest of ours is known
_SHOWN = 10  # faults that an error message lists


@dataclass(frozen=True, slots=True)
class Indexed:
    """A folder of tars that has become a dataset.

    Attributes:
        remarks: what its reader should know, such as samples without audio.
    """

    url: str
    manifest: Manifest
    remarks: tuple[str, ...]


@dataclass(slots=True)
class _Tar:
    """What one tar holds.

    Attributes:
        offsets: of its samples, as in its index.
        fields: how many samples have which modality, as (field, extension).
        labels: of each sample that has any.
        hints: at each sample that seems to hold more than is read, in words.
        faults: why it cannot be used.
    """

    info: ShardInfo
    keys: list[str] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    fields: Counter[tuple[str, str]] = field(default_factory=Counter)
    labels: list[dict[str, float | None]] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    duration_s: float = 0.0
    faults: list[str] = field(default_factory=list)


def index(
    url: str,
    *,
    name: str | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    storage_options: dict[str, Any] | None = None,
    progress: bool = True,
) -> Iterator[Indexed]:
    """Make a folder of tars a dataset, or each folder of tars in it.

    Each tar is read once, from front to end; a remote one is copied to a temporary file for as
    long as that takes. Nothing is written before all tars of a folder are known to be whole.

    Args:
        name: of the dataset; None is that of the folder.
        overwrite: replace a manifest that was made in another way.
        workers: processes; None is one a core.

    Raises:
        ManifestError: if there is no tar, or a manifest that this function did not make.
        ShardError: if tars are damaged or share a key; it names tar and offset.
    """
    target = Target(url, storage_options)
    folders = [target] if _tars(target) else _folders(target)
    if not folders:
        packed = [name for name in target.names() if name.endswith(COMPRESSED)]
        hint = f"; {packed[0]} is compressed: {UNPACK}" if packed else ""
        raise ManifestError(f"{url}: holds no .tar, nor does a folder in it{hint}")
    for folder in folders:
        _refuse_other(folder, overwrite=overwrite)
    for folder in folders:
        scan = partial(_scan, url=folder.url, options=storage_options)
        tars = list(spread(scan, _tars(folder), workers=workers, label="shards", progress=progress))
        _require_whole(folder.url, tars)
        manifest = _manifest(name or target.url.rpartition("/")[2], tars)
        _write(folder, manifest, tars)
        yield Indexed(folder.url, manifest, tuple(_remarks(tars)))


def _tars(target: Target) -> list[str]:
    return [name for name in target.names() if name.endswith(".tar")]


def _folders(target: Target) -> list[Target]:
    children = (target.child(name) for name in target.names() if "." not in name)
    return [child for child in children if _tars(child)]


def _refuse_other(target: Target, *, overwrite: bool) -> None:
    if overwrite or NAME not in target.names():
        return
    manifest = load_manifest(target.read(NAME), name=f"{target.url}/{NAME}")
    if dict(manifest.options) != _OPTIONS:
        raise ManifestError(
            f"{target.url}/{NAME}: is there already, and was not made by indexing; "
            "pass --overwrite to replace it"
        )


def _scan(name: str, *, url: str, options: dict[str, Any] | None) -> _Tar:
    """Read a tar from front to end."""
    with tempfile.TemporaryDirectory(prefix="index-") as folder:
        path = Target(url, options).fetch(name, Path(folder))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        try:
            with ShardReader(path) as reader:
                tar = _Tar(ShardInfo(name, len(reader), size, digest))
                tar.offsets = reader.offsets.tolist()
                for row in range(len(reader)):
                    _count_sample(tar, reader, row)
        except ShardError as error:
            reason = str(error).removeprefix(f"{path}: ")
            return _Tar(ShardInfo(name, 0, size, digest), faults=[f"{url}/{name}: {reason}"])
    return tar


def _count_sample(tar: _Tar, reader: ShardReader, row: int) -> None:
    """Add what one sample says to what is known of its tar."""
    members = {member.extension: member for member in reader.members(row)}
    key = reader.members(row)[0].key
    tar.keys.append(key)
    if not key.isascii() and key.encode("utf-8", "ignore").decode() != key:  # of another encoding
        tar.faults.append(f"{tar.info.url} at byte {tar.offsets[row]}: key {key!r} is not UTF-8")
    found = fields_of(members)
    tar.fields.update(found.items())
    record = _record(reader, members.get("json"))
    if found_labels := values.labels(record.get("labels")):
        tar.labels.append(found_labels)
    hints = (hint_at_members(key, members), hint_at_labels(record))
    if told := [hint for hint in hints if hint]:
        tar.hints.append(f"{key!r}: {'; '.join(told)}")
    tar.duration_s += _duration_s(record, reader, members.get(found.get("audio", "")))


def _record(reader: ShardReader, member: Member | None) -> dict[str, Any]:
    """The JSON of a sample; what is damaged says nothing, and ``verify`` finds it."""
    if member is None:
        return {}
    try:
        record = json.loads(reader.read_at(member.start, member.size))
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _duration_s(record: dict[str, Any], reader: ShardReader, audio: Member | None) -> float:
    """Seconds of a sample as its JSON says, else as its audio's header does, else 0."""
    if (seconds := values.number(record.get("duration"))) is not None and seconds >= 0:
        return seconds
    if audio is None or audio.extension not in AUDIO[1:]:
        return 0.0
    try:
        return float(soundfile.info(BytesIO(reader.read_at(audio.start, audio.size))).duration)
    except soundfile.LibsndfileError:
        return 0.0


def _require_whole(url: str, tars: Sequence[_Tar]) -> None:
    """Raise ShardError if a tar is damaged, or a key comes twice; all of them are named."""
    faults = [fault for tar in tars for fault in tar.faults]
    first: dict[str, str] = {}
    for tar in tars:
        for key, offset in zip(tar.keys, tar.offsets, strict=False):  # the last one is the end
            place = f"{tar.info.url} at byte {offset}"
            if (other := first.setdefault(key, place)) is not place:
                faults.append(f"{url}/{place}: sample {key!r} is in {other} too")
    if not faults:
        return
    listed = faults[:_SHOWN]
    if len(faults) > len(listed):
        listed.append(f"... and {len(faults) - len(listed)} more")
    raise ShardError(
        f"{url}: {len(faults)} faults in {len(tars)} tars; nothing was written:\n  "
        + "\n  ".join(listed)
    )


def _manifest(name: str, tars: Sequence[_Tar]) -> Manifest:
    labels = [labels for tar in tars for labels in tar.labels]
    fields: dict[str, str] = {}
    for (kind, extension), _ in _field_counts(tars).most_common():
        fields.setdefault(kind, extension)
    return Manifest(
        name=name,
        shards=tuple(tar.info for tar in tars),
        fields={kind: fields[kind] for kind in sorted(fields)},
        labels=label_stats(list(dict.fromkeys(n for sample in labels for n in sample)), labels),
        options=_OPTIONS,
        duration_s=round(math.fsum(tar.duration_s for tar in tars), 3),
    )


def _remarks(tars: Sequence[_Tar]) -> Iterator[str]:
    """Fields that only some of the samples have, or in several formats; and what is not read."""
    counts, samples = _field_counts(tars), sum(tar.info.nsamples for tar in tars)
    for kind in ("audio", "midi"):
        formats = {extension: n for (field, extension), n in counts.items() if field == kind}
        if formats and sum(formats.values()) < samples:
            yield f"{samples - sum(formats.values())} of {samples} samples have no {kind}"
        if len(formats) > 1:
            told = ", ".join(f"{n} .{extension}" for extension, n in sorted(formats.items()))
            yield f"{kind} is in several formats: {told}"
    if hints := [hint for tar in tars for hint in tar.hints]:
        count = f"{len(hints)} of {samples} samples"
        yield f"{count} seem to hold more than is read, such as {hints[0]}"


def _field_counts(tars: Sequence[_Tar]) -> Counter[tuple[str, str]]:
    return sum((tar.fields for tar in tars), Counter())


def _write(target: Target, manifest: Manifest, tars: Sequence[_Tar]) -> None:
    """Write beside the tars; the manifest comes last, as a reader goes by it."""
    target.remove(NAME)
    for tar in tars:
        if not _is_indexed(target, tar):
            target.write(f"{tar.info.url}.idx", index_bytes(tar.offsets))
    target.write(KEYS, keys_bytes(tar.keys for tar in tars))
    target.write(NAME, dump_manifest(manifest))


def _is_indexed(target: Target, tar: _Tar) -> bool:
    """Whether an index is there and right, whether it ends as Energon's or as Lhotse's."""
    try:
        data = target.read(f"{tar.info.url}.idx")
    except FileNotFoundError:
        return False
    *starts, end = tar.offsets
    return data in (index_bytes([*starts, end]), index_bytes([*starts, tar.info.filesize or end]))
