"""Are the shards of a run there, where do they lie, and are they rated?"""

import posixpath
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fsspec.implementations.local import LocalFileSystem

from loader.finding import Finding
from loader.places import DRIVE, MOUNT_DRIVE, check_path
from loader.transfer import open_url, read_url
from shards.errors import DataError
from shards.manifest import NAME, LabelStats, Manifest, load_manifest
from shards.mounts import is_local
from trainer.data import FIELDS
from trainer.plan import Plan

SPLITS = ("train", "val")
_MODALITIES = ("audio", "midi")  # each the name of the mode, too, that takes it alone
_NAMES = (*SPLITS, "test")
_SPLIT = "--split train=0.8,val=0.1,test=0.1 --group-by piece"
_FEW = 0.1  # of the samples: what fewer have a rating of is hardly learnt
_SLOW_S = 0.05  # to read a manifest: a disk takes a thousandth of a second, Drive 50-200


@dataclass(frozen=True, slots=True)
class Opened:
    """The manifest of a split, and how long it took to read."""

    manifest: Manifest
    latency_s: float


def local_path(url: str, options: dict[str, object] | None) -> Path | None:
    """The path that a URL names on this machine; None for one elsewhere."""
    fs, path = open_url(url, options)
    return Path(path) if type(fs) is LocalFileSystem else None


def open_splits(plan: Plan) -> tuple[dict[str, Opened], list[Finding]]:
    """The manifests of train and val, and what is wrong with those that are missing."""
    opened: dict[str, Opened] = {}
    troubles = []
    for split in SPLITS:
        url = plan.url(split)
        began = time.perf_counter()
        try:
            data = read_url(f"{url}/{NAME}", plan.storage_options, attempts=2)
            manifest = load_manifest(data, name=f"{url}/{NAME}")
        except FileNotFoundError:
            troubles.append(_missing(plan, split))
            if _drive_is_away(plan.root) or _exists(plan, f"{plan.root}/{NAME}"):
                break  # the other split is away for the same reason
        except (DataError, OSError) as error:
            remedy = f"python -m packer verify {url}"
            troubles.append(Finding("fail", f"{split} shards", str(error), remedy))
        else:
            opened[split] = Opened(manifest, time.perf_counter() - began)
    return opened, troubles


def check_shards(plan: Plan, opened: Mapping[str, Opened]) -> Iterator[Finding]:
    """How much each split holds, where it lies and how fast that answers."""
    for split, found in opened.items():
        manifest, url = found.manifest, plan.url(split)
        text = (
            f"{manifest.samples} samples in {len(manifest.shards)} shards, "
            f"{manifest.bytes / 1e9:.2f} GB, {manifest.duration_s / 3600:.1f} h, at {url}"
        )
        yield Finding("ok", f"{split} shards", text)
    if "train" in opened:
        yield from _check_place(plan, opened["train"])
        yield from _check_batches(plan, opened["train"].manifest)


def _check_place(plan: Plan, train: Opened) -> Iterator[Finding]:
    url = plan.url("train")
    path = local_path(url, plan.storage_options)
    stage = f"python -m loader stage {url} --cache-dir {plan.cache_dir}"
    if path is not None:
        for one in check_path(path):
            remedy = stage if one.remedy else ""
            yield Finding(one.state, "where it lies", f"{one.subject} {one.text}", remedy)
        return
    text = f"{train.latency_s * 1e3:.0f} ms to read a manifest; shards there go through the cache"
    slow = train.latency_s > _SLOW_S and plan.data["cache"] == "off"
    yield Finding("warn" if slow else "ok", "where it lies", text, stage if slow else "")


def _check_batches(plan: Plan, manifest: Manifest) -> Iterator[Finding]:
    samples = min(manifest.samples, plan.data["subset"] or manifest.samples)
    if plan.data["drop_last"] and samples < plan.batch_size:
        text = f"{samples} training samples make no batch of {plan.batch_size}"
        yield Finding("fail", "batches", text, f"--data.batch_size {max(1, samples // 4)}")


def check_mode(plan: Plan, opened: Mapping[str, Opened]) -> Iterator[Finding]:
    """Whether the samples have what the mode takes; foreign shards tell when they are read."""
    for split, one in opened.items():
        fields = [name for name in _MODALITIES if name in one.manifest.fields]
        missing = [name for name in FIELDS[plan.mode] if name in _MODALITIES and name not in fields]
        if fields and missing:
            text = (
                f"{split} has no {missing[0]}, which --mode {plan.mode} takes; it has {fields[0]}"
            )
            yield Finding("fail", "mode", text, f"--mode {fields[0]}")
            return  # of the other split it would be the same


def check_labels(plan: Plan, opened: Mapping[str, Opened]) -> Iterator[Finding]:
    """Whether every dimension is rated in every split, and varies in training.

    That some samples lack a rating is as it should be, and told without a remedy.
    """
    if "train" not in opened:
        return
    labels = opened["train"].manifest.labels
    names = plan.data["dimensions"] or list(labels)
    if not names:
        text, remedy = "the training samples have no labels to learn", _rated_anew(plan)
        yield Finding("fail", "labels", text, remedy)
        return
    found = list(_judge_labels(plan, names, opened))
    yield from found
    if not found:
        manifest = opened["train"].manifest
        told = (_counted(name, labels[name], manifest.samples) for name in names)
        yield Finding("ok", "labels", f"{len(names)} dimensions: {', '.join(told)}")


def _judge_labels(plan: Plan, names: list[str], opened: Mapping[str, Opened]) -> Iterator[Finding]:
    for split, one in opened.items():
        labels = one.manifest.labels
        # what nobody rated in training has no scale; in validation it has no figures
        rated = [name for name, label in labels.items() if label.count or split != "train"]
        if missing := [name for name in names if name not in rated]:
            text = f"{split} has no rating of {', '.join(missing)}; it has {', '.join(rated)}"
            kept = [name for name in names if name in rated] or rated
            remedy = f"--data.dimensions [{','.join(kept)}]" if kept else _rated_anew(plan)
            yield Finding("fail", "labels", text, remedy)
            continue
        yield from _judge_each(plan, split, {name: labels[name] for name in names}, one.manifest)


def _judge_each(
    plan: Plan, split: str, labels: Mapping[str, LabelStats], manifest: Manifest
) -> Iterator[Finding]:
    samples = manifest.samples
    if few := {n: label.count for n, label in labels.items() if label.count < _FEW * samples}:
        counts = ", ".join(f"{name} {count}" for name, count in few.items())
        text = f"of {samples} {split} samples, rated in {counts}; a missing label weighs nothing"
        kept = ",".join(name for name in labels if name not in few)
        without = f"--data.dimensions [{kept}]; or, once more are rated: " if kept else ""
        yield Finding("warn", "labels", text, without + _rated_anew(plan))
    flat = [name for name, label in labels.items() if label.std == 0]
    if split == "train" and flat:
        text = f"{', '.join(flat)}: the same rating everywhere, nothing to learn"
        kept = ",".join(name for name in labels if name not in flat)
        yield Finding("warn", "labels", text, f"--data.dimensions [{kept}]" if kept else "")


def _missing(plan: Plan, split: str) -> Finding:
    """Why a split has no manifest, and what makes one."""
    url, subject = plan.url(split), f"{split} shards"
    if _drive_is_away(plan.root):
        return Finding("fail", subject, f"{plan.root}: Drive is not mounted", MOUNT_DRIVE)
    build = f"python -m packer build ANNOTATIONS.jsonl --out {plan.root} {_SPLIT}"
    if _exists(plan, f"{plan.root}/{NAME}"):
        return _too_deep(plan, subject)
    if split == "val" and _exists(plan, f"{plan.url('train')}/{NAME}"):
        text = f"there is no val split at {url}; without one nothing tells when to stop"
        return Finding("fail", subject, text, f"{build} --overwrite  # or: --data.val_shards URL")
    return Finding("fail", subject, f"there is no {NAME} at {url}", build)


def _too_deep(plan: Plan, subject: str) -> Finding:
    """Of a dataset where the folder of the splits should be: it may be one of them."""
    above = posixpath.dirname(plan.root) or "."
    if posixpath.basename(plan.root) in _NAMES and _exists(plan, f"{above}/train/{NAME}"):
        text = f"{plan.root} is one split; what is asked for is the folder above train/ and val/"
        return Finding("fail", subject, text, f"--data.shards {above}")
    text = f"{plan.root} is one dataset without splits, not a folder of train/ and val/"
    return Finding("fail", subject, text, _built_beside(plan, "split"))


def _exists(plan: Plan, url: str) -> bool:
    fs, path = open_url(url, plan.storage_options)
    return bool(fs.exists(path))


def _drive_is_away(root: str) -> bool:
    path = Path(root.removeprefix("file://"))
    return path.is_relative_to(DRIVE) and is_local(DRIVE)


def _counted(name: str, label: LabelStats, samples: int) -> str:
    return name if label.count == samples else f"{name} (rated in {label.count} of {samples})"


def _rated_anew(plan: Plan) -> str:
    """A model's scale is that of the packed labels, so new ones are packed."""
    return _built_beside(plan, "rated")


def _built_beside(plan: Plan, what: str) -> str:
    """What makes a folder of splits beside the one that is there, which stays."""
    url = f"{plan.root}-{what}"
    return (
        f"python -m packer build ANNOTATIONS.jsonl --out {url} {_SPLIT}, then --data.shards {url}"
    )
