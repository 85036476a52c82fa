"""Adds new annotations to a dataset as further shards; those that are there stay as they are."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packer.build import build
from packer.card import put_card
from packer.inputs import read_input, rules_for
from packer.options import Options
from packer.probe import Intake
from packer.report import Report
from packer.shard import shard_name
from packer.splits import Dataset, open_splits
from packer.spool import default_spool
from packer.summary import pooled
from packer.target import Target
from shards.errors import AnnotationError, ManifestError
from shards.faults import Kind, Rejection
from shards.keys import RECORD, key_hash
from shards.manifest import NAME, Manifest, ShardInfo, dump_manifest, load_manifest
from shards.reader import ShardReader
from shards.records import COMPUTED
from shards.schema import Annotation

_KEYS, _REJECTED = "keys.bin", "rejected.jsonl"
_DIVIDING: dict[str, Any] = {
    "split": {},
    "split_by": None,
    "group_by": None,
}  # of what is one dataset by now


@dataclass(frozen=True, slots=True)
class Appended:
    """What a dataset has now, and how many samples of it are new."""

    url: str
    manifest: Manifest
    added: int


def append(
    annotations: Path,
    url: str,
    *,
    root: Path | None = None,
    rewrite: Mapping[str, str] | None = None,
    only: str | None = None,
    label_range: tuple[float, float] | None = None,
    intake: Intake | None = None,
    workers: int | None = None,
    max_rejected: float = 0.0,
    storage_options: dict[str, Any] | None = None,
    spool: Path | None = None,
    progress: bool = True,
) -> Appended:
    """Pack annotations with the options of a dataset, and add them to it as new shards.

    They are packed on the local disk, then their shards put beside the others, and last the
    manifest is replaced. New samples are shuffled among themselves only.

    Args:
        annotations: as for ``build``; no key may be in the dataset, and no field be new.
        url: a dataset, such as one split.
        spool: local folder to pack in; None is in the user's cache directory.

    Raises:
        AnnotationError: as ``build``, and if a key is in the dataset already.
        ManifestError: if there is no dataset of this packer, or the new one has other members.
    """
    dataset = _open(url, storage_options)
    target, manifest = dataset.target, dataset.manifest
    stage = _stage(target, spool)
    known = _keys(target, below=len(manifest.shards))
    like = _a_record(target, manifest, stage)
    if intake is None or intake.segment_s is None:
        rules = rules_for(annotations, root, rewrite, only, label_range, like)
        _refuse_known(annotations, read_input(annotations, rules).annotations, known)
    packed = stage / "dataset"
    build(
        annotations,
        str(packed),
        options=_options(manifest),
        root=root,
        rewrite=rewrite,
        only=only,
        label_range=label_range,
        like=like,
        intake=intake,
        name=manifest.name,
        workers=workers,
        max_rejected=max_rejected,
        overwrite=True,
        spool=stage / "spool",
        progress=progress,
    )
    new = load_manifest((packed / NAME).read_bytes(), name=str(packed))
    joined = _join(target, manifest, new, packed, known)
    shutil.rmtree(stage)
    return Appended(target.url, joined, new.samples)


def _stage(target: Target, spool: Path | None) -> Path:
    """The local folder that what joins a dataset is packed in; an append that broke off left it."""
    name = f"append-{sha256(target.identity.encode()).hexdigest()}"
    stage = (spool or default_spool()) / name
    stage.mkdir(parents=True, exist_ok=True)
    return stage


def _open(url: str, storage_options: dict[str, Any] | None) -> Dataset:
    datasets = open_splits(url, storage_options)
    if "" not in datasets:
        names = list(datasets)
        raise ManifestError(f"{url}: holds splits; name one: {url}/{f' or {url}/'.join(names)}")
    if "input_sha256" not in datasets[""].manifest.options:
        raise ManifestError(f"{url}: was not built by this packer, so its options are not known")
    return datasets[""]


def _options(manifest: Manifest) -> Options:
    """The options that a dataset was built with, but for those that divided it."""
    known = {field.name for field in fields(Options)}
    given = {name: value for name, value in manifest.options.items() if name in known}
    return Options(**{**given, **_DIVIDING})


def _keys(target: Target, *, below: int) -> NDArray[np.void]:
    """``keys.bin`` of the shards that the manifest names: an append that broke off wrote more."""
    records = np.frombuffer(target.read(_KEYS), dtype=RECORD)
    return records[records["shard"] < below]


def _a_record(target: Target, manifest: Manifest, folder: Path) -> dict[str, Any]:
    """The JSON that samples have, with nulls where those of the first shard have none."""
    record: dict[str, Any] = {}
    with ShardReader(target.fetch(manifest.shards[0].url, folder)) as reader:
        for row in range(len(reader)):
            for name, value in json.loads(reader.read(row)["json"]).items():
                if record.get(name) is None:
                    record[name] = value
    return {name: value for name, value in record.items() if name not in COMPUTED}


def _refuse_known(source: Path, annotations: Sequence[Annotation], known: NDArray[np.void]) -> None:
    hashes = np.array([key_hash(one.key) for one in annotations], dtype=np.uint64)
    twice = [annotations[int(place)] for place in np.flatnonzero(np.isin(hashes, known["hash"]))]
    rejected = [
        Rejection(
            one.line, f"key {one.key!r} is in the dataset already", one.record, Kind.DUPLICATE_KEY
        )
        for one in twice
    ]
    Report(source, len(annotations), None, rejected).check()


def _join(
    target: Target, old: Manifest, new: Manifest, packed: Path, known: NDArray[np.void]
) -> Manifest:
    """Put new shards beside the old ones, then all keys, then the manifest."""
    if dict(new.fields) != dict(old.fields):
        shutil.rmtree(packed)
        raise ManifestError(
            f"{target.url}: its samples have {_listed(old)}, but the new ones {_listed(new)}; all "
            "samples of a dataset have the same members"
        )
    first = len(old.shards)
    keys = np.frombuffer((packed / _KEYS).read_bytes(), dtype=RECORD).copy()
    if np.isin(keys["hash"], known["hash"]).any():
        raise AnnotationError(f"{target.url}: has some of the new keys already; nothing is added")
    shards: list[ShardInfo] = []
    for number, info in enumerate(new.shards, first):
        name = shard_name(number)
        for end in ("", ".idx"):
            target.put(packed / f"{info.url}{end}", f"{name}{end}")
        shards.append(replace(info, url=name))
    keys["shard"] += first
    joined = np.concatenate([known, keys])
    target.write(_KEYS, joined[np.argsort(joined["hash"], kind="stable")].tobytes())
    if (packed / _REJECTED).exists():
        before = target.read(_REJECTED) if _REJECTED in target.names() else b""
        target.write(_REJECTED, before + (packed / _REJECTED).read_bytes())
    names = dict.fromkeys([*old.labels, *new.labels])
    inputs = f"{old.options['input_sha256']}{new.options['input_sha256']}"
    manifest = replace(
        old,
        shards=(*old.shards, *shards),
        labels={
            name: pooled([one.labels[name] for one in (old, new) if name in one.labels])
            for name in names
        },
        options={**old.options, "input_sha256": sha256(inputs.encode()).hexdigest()},
        duration_s=round(old.duration_s + new.duration_s, 3),
    )
    target.write(NAME, dump_manifest(manifest))
    put_card(target, {"": manifest})
    return manifest


def _listed(manifest: Manifest) -> str:
    return ", ".join(manifest.fields.values())
