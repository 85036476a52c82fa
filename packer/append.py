"""Adds new annotations to a dataset as further shards; those that are there stay as they are."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from packer.build import build
from packer.card import put_cards
from packer.intake import Intake
from packer.joining import PARTS, UNDIVIDED, Joined, a_record, parts_of
from packer.journal import remove_other_shards
from packer.locks import locked
from packer.options import Options
from packer.place import Place, find_place, read_keys
from packer.shard import shard_name
from packer.splits import Dataset
from packer.spool import default_spool
from packer.summary import pooled
from packer.target import Target
from shards.errors import AnnotationError, ManifestError
from shards.keys import KEYS, RECORD
from shards.manifest import NAME, Manifest, ShardInfo, dump_manifest, load_manifest

_REJECTED = "rejected.jsonl"


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
    manifest is replaced. New samples are shuffled among themselves only. Annotations whose keys
    are there already are left out, as others that cannot be packed: so a file that has grown is
    appended, with a ``max_rejected`` that allows for them.

    Args:
        annotations: as for ``build``; no field may be new. Lines without MIDI get a file without
            notes if the dataset has MIDI.
        url: a dataset, such as one split.
        intake: as for ``build``; windows are cut as the dataset's were, if it chooses none.
        spool: local folder to pack in; None is in the user's cache directory.

    Raises:
        AnnotationError: as ``build``; a key that is in the dataset or in its other splits already
            counts among what cannot be packed. Nothing is added then.
        ManifestError: if there is no dataset of this packer, it lacks ``keys.bin``, the new samples
            have other members, or the dataset was changed meanwhile.
        FetchError: as ``build``.
    """
    spools = spool or default_spool()
    with locked(spools, find_place(url, storage_options).identities):
        place = find_place(url, storage_options)  # nobody on this machine changes it from here on
        target, manifest = place.dataset.target, place.dataset.manifest
        stage = _stage(target, spools)
        like = a_record(target, manifest.shards, stage)
        joined = Joined(target.url, like, manifest.fields, place.taken())
        intake = (intake or Intake()).as_noted(manifest.options)
        packed = stage / "dataset"
        build(
            annotations,
            str(packed),
            options=_options(manifest),
            root=root,
            rewrite=rewrite,
            only=only,
            label_range=label_range,
            joined=joined,
            intake=intake,
            name=manifest.name,
            workers=workers,
            max_rejected=max_rejected,
            overwrite=True,
            spool=stage / "spool",
            progress=progress,
        )
        new = load_manifest((packed / NAME).read_bytes(), name=str(packed))
        whole = _join(place, new, packed, annotations)
        shutil.rmtree(stage)
        return Appended(target.url, whole, new.samples)


def _stage(target: Target, spools: Path) -> Path:
    """The local folder that what joins a dataset is packed in; an append that broke off left it."""
    stage = spools / f"append-{sha256(target.identity.encode()).hexdigest()}"
    stage.mkdir(parents=True, exist_ok=True)
    return stage


def _options(manifest: Manifest) -> Options:
    """The options that a dataset was built with, but for those that divided it."""
    known = {field.name for field in fields(Options)}
    given = {name: value for name, value in manifest.options.items() if name in known}
    return Options(**{**given, **UNDIVIDED})


def _join(place: Place, new: Manifest, packed: Path, annotations: Path) -> Manifest:
    """Put new shards beside the old ones, then what was left out and all keys, then the manifest.

    Shards that an append which broke off left there go before the manifest: after it, an end in
    between would leave them to whoever reads ``*.tar``. Cards follow, for they are made of
    manifests.
    """
    target, old = place.dataset.target, place.dataset.manifest
    first = len(old.shards)
    keys = np.frombuffer((packed / KEYS).read_bytes(), dtype=RECORD).copy()
    if np.isin(keys["hash"], place.taken()).any():
        raise AnnotationError(f"{target.url}: has some of the new keys already; nothing is added")
    _refuse_changed(place.dataset)
    shards: list[ShardInfo] = []
    for number, info in enumerate(new.shards, first):
        name = shard_name(number)
        for end in ("", ".idx"):
            target.put(packed / f"{info.url}{end}", f"{name}{end}")
        shards.append(replace(info, url=name))
    keys["shard"] += first
    joined = np.concatenate([read_keys(place.dataset), keys])
    manifest = _pooled(old, new, shards)
    _refuse_changed(place.dataset)
    remove_other_shards(target, {info.url for info in manifest.shards})
    _add_rejected(target, packed, annotations)
    target.write(KEYS, joined[np.argsort(joined["hash"], kind="stable")].tobytes())
    target.write(NAME, dump_manifest(manifest))
    if "" in place.splits:
        put_cards(target, {"": manifest})
        return manifest
    manifests = {
        split: manifest if one.target.identity == target.identity else one.manifest
        for split, one in place.splits.items()
    }
    put_cards(target.parent, manifests)
    return manifest


def _refuse_changed(dataset: Dataset) -> None:
    """Raise ManifestError if the manifest is no more what it was: another machine was here."""
    url = f"{dataset.target.url}/{NAME}"
    now = load_manifest(dataset.target.read(NAME), name=url)
    if dump_manifest(now) != dump_manifest(dataset.manifest):
        raise ManifestError(f"{url}: was changed meanwhile, by another machine; append again")


def _pooled(old: Manifest, new: Manifest, shards: Sequence[ShardInfo]) -> Manifest:
    """The manifest of both together.

    Args:
        shards: the new ones, under the names that they have now.
    """
    names = dict.fromkeys([*old.labels, *new.labels])
    inputs = f"{old.options['input_sha256']}{new.options['input_sha256']}"
    noted = {"input_sha256": sha256(inputs.encode()).hexdigest()}
    added = {"input_sha256": new.options["input_sha256"], "shards": len(shards)}
    parts = [{"input_sha256": p.input_sha256, "shards": len(p.shards)} for p in parts_of(old)]
    return replace(
        old,
        shards=(*old.shards, *shards),
        labels={
            name: pooled([one.labels[name] for one in (old, new) if name in one.labels])
            for name in names
        },
        options={**old.options, **noted, PARTS: [*parts, added]},
        duration_s=round(old.duration_s + new.duration_s, 3),
    )


def _add_rejected(target: Target, packed: Path, annotations: Path) -> None:
    """Add what was left out to the list of the dataset, each line with the file it is of.

    What an append that broke off has added stands there once.
    """
    if not (packed / _REJECTED).exists():
        return
    before = target.read(_REJECTED) if _REJECTED in target.names() else b""
    rows = map(json.loads, (packed / _REJECTED).read_bytes().splitlines())
    lines = [
        json.dumps({"annotations": annotations.name, **row}, ensure_ascii=False).encode()
        for row in rows
    ]
    there = set(before.splitlines())
    added = [line for line in lines if line not in there]
    target.write(_REJECTED, before + b"".join(line + b"\n" for line in added))
