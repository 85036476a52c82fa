"""Remakes shards that are damaged or missing, from the annotations that they were packed of."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from packer.ahead import Run, encode_ahead
from packer.copies import Copies
from packer.encode import Encoded
from packer.intake import Intake
from packer.interrupt import interruptible
from packer.jobs import Jobs
from packer.joining import UNDIVIDED, Part, a_record, parts_of
from packer.journal import kept_samples
from packer.locks import locked
from packer.options import Options
from packer.place import find_place, read_keys
from packer.samples import Samples, plan_samples, read_samples
from packer.shard import write_shard
from packer.splits import Dataset, open_splits
from packer.spool import Spool, default_spool, writing
from packer.spread import spread
from packer.verify import Verified, verify
from shards.errors import ManifestError
from shards.keys import KEYS, RECORD, key_hash, keys_bytes
from shards.reader import ShardReader
from shards.schema import Rules


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
        annotations, rules, intake: as for the build that made it, or for an append to it, whose
            shards alone are remade then.
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
        source = _Source(annotations, rules, intake, copies, progress, storage_options)
        plans = {
            name: _Plan(source, datasets[name], bad, spools) for name, bad in faulty.items() if bad
        }
        for name, bad in faulty.items():
            if bad:
                plans[name].remake(bad, run)
    for result in check():
        if any(KEYS in fault for fault in result.faults) and not result.bad:
            target = datasets[result.url].target
            target.write(KEYS, _keys_of(datasets[result.url]))
    return check()


def _keys_of(dataset: Dataset) -> bytes:
    """``keys.bin`` of a dataset whose shards are good."""

    def keys(name: str) -> list[str]:
        with TemporaryDirectory(prefix="repair-") as folder:
            path = dataset.target.fetch(name, Path(folder))
            with ShardReader(path) as reader:
                return [reader.members(row)[0].key for row in range(len(reader))]

    return keys_bytes(keys(info.url) for info in dataset.manifest.shards)


@dataclass(frozen=True, slots=True)
class _Source:
    """Annotations that shards may have been packed of."""

    path: Path
    rules: Rules
    intake: Intake
    copies: Copies
    progress: bool
    storage_options: dict[str, Any] | None

    def find(
        self, dataset: Dataset, bad: Collection[str], spools: Path
    ) -> tuple[Samples, Options, Part]:
        """The samples, by their identity, that a dataset was built of, or that were appended.

        Raises:
            ManifestError: if they are none of these.
        """
        options = _options(dataset)
        undivided = replace(options, **UNDIVIDED)
        built, *appended = parts_of(dataset.manifest)
        for added in appended:
            whole = [info for info in dataset.manifest.shards[: added.first] if info.url not in bad]
            with TemporaryDirectory(prefix="repair-", dir=spools) as folder:
                like = a_record(dataset.target, whole, Path(folder))
            samples = self._read(
                replace(self.rules, like=like), undivided, dataset, self._before(dataset, added)
            )
            if samples.identity == added.input_sha256:
                return samples, undivided, added
        samples = self._read(self.rules, options, dataset)
        for split in samples.parts:
            if (part := samples.part(split)).identity == built.input_sha256:
                return part, options, built
        raise ManifestError(
            f"{dataset.target.url}: input_sha256 says that it was packed of other annotations, "
            f"sources or segments than {self.path} with these options, and so was what was "
            "appended; nothing is replaced"
        )

    def _before(self, dataset: Dataset, added: Part) -> NDArray[np.uint64]:
        """Hashes of the keys that an append left out as known, as far as ``keys.bin`` tells."""
        try:
            place = find_place(dataset.target.url, self.storage_options)
            own = read_keys(dataset)
            others = [read_keys(one)["hash"] for one in place.others]
        except ManifestError:
            return np.empty(0, np.uint64)
        return np.concatenate([own["hash"][own["shard"] < added.first], *others])

    def _read(
        self,
        rules: Rules,
        options: Options,
        dataset: Dataset,
        taken: NDArray[np.uint64] | None = None,
    ) -> Samples:
        return read_samples(
            self.path,
            rules,
            options=options,
            intake=self.intake.as_noted(dataset.manifest.options),
            copies=self.copies,
            taken=taken,
            with_midi=rules.like is not None and "midi" in dataset.manifest.fields,
            progress=self.progress,
        )


class _Plan:
    """What each shard of a dataset was made of."""

    def __init__(
        self, source: _Source, dataset: Dataset, bad: Collection[str], spools: Path
    ) -> None:
        """Plan as the build did; raise ManifestError if it had other input."""
        self._target, self._manifest, self._copies = (
            dataset.target,
            dataset.manifest,
            source.copies,
        )
        samples, options, self._part = source.find(dataset, bad, spools)
        self._spool = Spool(spools, dataset.target.identity)
        self._hashes = [key_hash(segment.annotation.key) for segment in samples.segments]
        groups = plan_samples(samples.segments, options, at=source.copies.at)
        self._jobs = [partial(Jobs(samples, options, self._spool).of, group) for group in groups]
        rejected = self._rejected()
        kept = [kept_samples(group.shards, rejected) for group in groups]
        self._shards = [shard for shards in kept for shard in shards]
        self._groups = [number for number, shards in enumerate(kept) for _ in shards]
        if [len(shard) for shard in self._shards] != [one.nsamples for one in self._part.shards]:
            raise ManifestError(
                f"{self._target.url}: its shards hold other samples than would be packed now; are "
                "the codec libraries of other versions? Nothing is replaced"
            )

    def remake(self, bad: Collection[str], run: Run) -> None:
        """Make shards anew, and put them in place once all of them are what they were.

        Raises:
            ManifestError: if one is not.
        """
        self._spool.begin()
        try:
            numbers = [n for n, info in enumerate(self._part.shards) if info.url in bad]
            if not numbers:
                raise ManifestError(
                    f"{self._target.url}: {', '.join(sorted(bad))}: packed of other annotations "
                    "than these: name those that were appended, or those of the build"
                )
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
        info = self._part.shards[number]
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
        data = self._target.read(KEYS) if KEYS in self._target.names() else b""
        if len(data) != self._manifest.samples * RECORD.itemsize:
            return set()
        there = set(np.frombuffer(data, dtype=RECORD)["hash"].tolist())
        lacking = {index for index, found in enumerate(self._hashes) if found not in there}
        samples = sum(info.nsamples for info in self._part.shards)
        return lacking if len(self._hashes) - len(lacking) == samples else set()


def _options(dataset: Dataset) -> Options:
    """The options that a dataset was built with."""
    known = {field.name for field in fields(Options)}
    given = dataset.manifest.options
    if "input_sha256" not in given:
        raise ManifestError(
            f"{dataset.target.url}: was not built by this packer, so it cannot be remade"
        )
    return Options(**{name: value for name, value in given.items() if name in known})
