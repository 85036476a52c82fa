"""Remakes shards that are damaged or missing, from the annotations that they were packed of."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from packer.ahead import Run, encode_ahead
from packer.copies import Copies
from packer.encode import Encoded
from packer.interrupt import interruptible
from packer.jobs import Jobs
from packer.journal import kept_samples
from packer.options import Options
from packer.probe import Intake
from packer.samples import Samples, plan_samples, read_samples
from packer.shard import write_shard
from packer.splits import Dataset, open_splits
from packer.spool import Spool, default_spool, locked, writing
from packer.spread import spread
from packer.verify import Verified, verify
from shards.errors import ManifestError
from shards.keys import RECORD, key_hash, keys_bytes
from shards.schema import Rules

_KEYS = "keys.bin"


def repair(
    annotations: Path,
    url: str,
    rules: Rules,
    *,
    intake: Intake | None = None,
    workers: int | None = None,
    storage_options: dict[str, Any] | None = None,
    spool: Path | None = None,
    progress: bool = True,
) -> list[Verified]:
    """Verify a dataset, or a folder of splits, and remake its bad shards and ``keys.bin``.

    What is remade has the manifest's SHA-256. Indexes go with their shards.

    Args:
        annotations, rules, intake: as for the build that made it.
        spool: local folder to encode in; None is in the user's cache directory.

    Returns:
        What there is afterwards.

    Raises:
        ManifestError: if a shard would not become what it was; it is not replaced then.
    """

    def check() -> list[Verified]:
        return list(
            verify(url, storage_options=storage_options, workers=workers, progress=progress)
        )

    found = check()
    faulty = {result.url: result.bad for result in found if result.faults}
    if not faulty:
        return found
    datasets = {one.target.url: one for one in open_splits(url, storage_options).values()}
    intake, spools = intake or Intake(), spool or default_spool()
    run = partial(spread, workers=workers, label="recordings", progress=progress)
    with (
        interruptible(),
        Copies(spools, threads=intake.io_threads) as copies,
        locked(spools, {datasets[name].target.identity for name in faulty}),
    ):
        options = _options(datasets[next(iter(faulty))])
        samples = read_samples(
            annotations, rules, options=options, intake=intake, copies=copies, progress=progress
        )
        plans = {
            name: _Plan(annotations, samples, datasets[name], spools, copies) for name in faulty
        }
        for name, bad in faulty.items():
            plans[name].remake(bad, run)
    for result in check():
        if result.url in plans and any(_KEYS in fault for fault in result.faults):
            datasets[result.url].target.write(_KEYS, plans[result.url].keys())
    return check()


class _Plan:
    """What each shard of a dataset was made of."""

    def __init__(
        self,
        annotations: Path,
        samples: Samples,
        dataset: Dataset,
        spools: Path,
        copies: Copies,
    ) -> None:
        """Plan as the build did; raise ManifestError if it had other input."""
        self._target, self._manifest, self._copies = dataset.target, dataset.manifest, copies
        part, options = _part(annotations, samples, dataset), _options(dataset)
        self._spool = Spool(spools, dataset.target.identity)
        self._hashes = [key_hash(segment.annotation.key) for segment in part.segments]
        self._keys = [segment.annotation.key for segment in part.segments]
        groups = plan_samples(part.segments, options, at=copies.at)
        self._jobs = [partial(Jobs(part, options, self._spool).of, group) for group in groups]
        rejected = self._rejected()
        kept = [kept_samples(group.shards, rejected) for group in groups]
        self._shards = [shard for shards in kept for shard in shards]
        self._groups = [number for number, shards in enumerate(kept) for _ in shards]
        if [len(shard) for shard in self._shards] != [
            one.nsamples for one in self._manifest.shards
        ]:
            raise ManifestError(
                f"{self._target.url}: its shards hold other samples than would be packed now; are "
                "the codec libraries of other versions? Nothing is replaced"
            )

    def keys(self) -> bytes:
        """``keys.bin`` of the dataset."""
        return keys_bytes([self._keys[index] for index in shard] for shard in self._shards)

    def remake(self, bad: Collection[str], run: Run) -> None:
        """Make shards anew, and put them in place once all of them are what they were.

        Raises:
            ManifestError: if one is not.
        """
        self._spool.begin()
        try:
            numbers = [n for n, info in enumerate(self._manifest.shards) if info.url in bad]
            encoded = self._encode(numbers, run)
            made = [self._cut(number, encoded) for number in numbers]
            for path in made:
                index = path.with_name(f"{path.name}.idx")
                self._target.put(path, path.name)
                self._target.put(index, index.name)
        finally:
            self._spool.end()

    def _encode(self, numbers: Collection[int], run: Run) -> dict[int, tuple[Path, Encoded]]:
        """Encode what shards hold, in whole jobs: an MP3's decoder tells how it was read."""
        needed = {index for number in numbers for index in self._shards[number]}
        groups = sorted({self._groups[number] for number in numbers})
        jobs = [
            job
            for group in groups
            for job in self._jobs[group]()
            if any(task.index in needed for task in job.tasks)
        ]
        results = encode_ahead(jobs, self._copies, run)
        encoded = {
            place.index: (job.spool, place)
            for job, places in zip(jobs, results, strict=True)
            for place in places
        }
        for index in needed:
            if reason := encoded[index][1].reason:
                raise ManifestError(f"{self._target.url}: nothing is replaced: {reason}")
        return encoded

    def _cut(self, number: int, encoded: Mapping[int, tuple[Path, Encoded]]) -> Path:
        info = self._manifest.shards[number]
        path = self._spool.folder / info.url
        with writing(path.parent):
            made = write_shard(self._shards[number], encoded, path)
        if made.info.sha256 != info.sha256:
            raise ManifestError(
                f"{self._target.url}/{info.url}: made anew it is not what it was: its SHA-256 is "
                "not the manifest's. Are the codec libraries of other versions? Nothing is replaced"
            )
        return path

    def _rejected(self) -> set[int]:
        """Samples that could not be encoded, which a whole ``keys.bin`` lacks."""
        data = self._target.read(_KEYS) if _KEYS in self._target.names() else b""
        if len(data) != self._manifest.samples * RECORD.itemsize:
            return set()
        there = set(np.frombuffer(data, dtype=RECORD)["hash"].tolist())
        lacking = {index for index, found in enumerate(self._hashes) if found not in there}
        whole = len(self._hashes) - len(lacking) == self._manifest.samples
        return lacking if whole else set()


def _options(dataset: Dataset) -> Options:
    """The options that a dataset was built with."""
    known = {field.name for field in fields(Options)}
    given = dataset.manifest.options
    if "input_sha256" not in given:
        raise ManifestError(
            f"{dataset.target.url}: was not built by this packer, so it cannot be remade"
        )
    return Options(**{name: value for name, value in given.items() if name in known})


def _part(annotations: Path, samples: Samples, dataset: Dataset) -> Samples:
    """The samples that a dataset was packed of, whichever split it is."""
    for split in samples.parts:
        part = samples.part(split)
        if part.identity == dataset.manifest.options["input_sha256"]:
            return part
    raise ManifestError(
        f"{dataset.target.url}: input_sha256 says that it was packed of other annotations, sources "
        f"or segments than {annotations} with these options, or that some were appended later; "
        "appended shards, and those beside them, cannot be remade. Nothing is replaced"
    )
