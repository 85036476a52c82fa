"""The processes of this machine as they make a dataset: they encode into its spool."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

from packer.ahead import encode_ahead
from packer.carry import Carrier, Stop
from packer.copies import Copies
from packer.encode import Encoded, Job
from packer.journal import Done, Journal
from packer.plan import Group
from packer.shard import Written, shard_name, write_shard
from packer.spool import Spool, encoded_before, forget, writing
from packer.spread import spread
from packer.target import Target

log = logging.getLogger("packer")

_MORE_THAN_PLANNED = 1.1  # of room: sizes are estimates
_CUT_AT_ONCE = 2  # shards: one is hashed while another waits for the disk or the link


class Processes:
    """Encodes with processes, and cuts and carries shards from this one."""

    def __init__(
        self,
        target: Target,
        journal: Journal,
        spool: Spool,
        copies: Copies,
        *,
        stop: Stop,
        shard_bytes: int,
        workers: int | None,
        progress: bool,
    ) -> None:
        self._target, self._journal, self._spool, self._copies = target, journal, spool, copies
        self._stop, self._shard_bytes = stop, shard_bytes
        self._workers, self._progress = workers, progress

    def begin(self, groups: Iterable[Sequence[Job]]) -> None:
        """Keep of what an earlier run encoded what is of use for the jobs of some groups."""
        if self._spool.begin():
            self._spool.keep({job.spool for jobs in groups for job in jobs})

    def encode(
        self, group: Group, jobs: Sequence[Job], carrier: Carrier[Done]
    ) -> dict[int, tuple[Path, Encoded]]:
        """Encode the jobs of a group; spool file and place in it, by sample."""
        found = {job.spool: encoded_before(job) for job in jobs}
        missing = [job for job in jobs if found[job.spool] is None]
        if len(missing) < len(jobs):
            log.info("%d recordings are encoded already", len(jobs) - len(missing))
        self._require_room(group, missing, carrier)
        run = partial(spread, workers=self._workers, label="recordings", progress=self._progress)
        with closing(encode_ahead(missing, self._copies, run)) as results:
            for job, places in zip(missing, results, strict=True):
                found[job.spool] = places
                carrier.check()  # if that raises, the workers end, whoever keeps the error
        return {place.index: (job.spool, place) for job in jobs for place in found[job.spool] or ()}

    def cut(
        self,
        shards: Sequence[tuple[int, ...]],
        encoded: Mapping[int, tuple[Path, Encoded]],
        *,
        first: int,
    ) -> list[Written]:
        """Cut shards, a few at a time, and move each to the target before others are cut.

        Args:
            first: number of the first one.
        """

        def cut(number: int, samples: tuple[int, ...]) -> Written:
            self._stop.pause()
            path = self._spool.folder / shard_name(number)
            with writing(path.parent):
                shard = write_shard(samples, encoded, path)
            index = path.with_name(f"{path.name}.idx")
            self._put(path, shard.info.filesize, shard.info.sha256)
            self._put(index, index.stat().st_size, shard.index_sha256)
            return shard

        pool = ThreadPoolExecutor(_CUT_AT_ONCE, thread_name_prefix="cutter")
        try:
            return list(pool.map(cut, range(first, first + len(shards)), shards))
        finally:
            pool.shutdown(cancel_futures=True)

    def forget(self, encoded: Iterable[tuple[Path, Encoded]]) -> None:
        """Remove what was encoded and is in shards now."""
        for spool in {spool for spool, _ in encoded}:
            forget(spool)

    def _put(self, path: Path, size: int | None, sha256: str | None) -> None:
        if self._journal.has(path.name, size, sha256):
            path.unlink()
        else:
            self._target.put(path, path.name)

    def _require_room(self, group: Group, missing: Sequence[Job], carrier: Carrier[Done]) -> None:
        """Check for room for what is to be encoded, and for the shards that are cut from it.

        If there is too little while the group before is on its way, it is waited for.
        """
        planned = {
            index: size
            for recording in group.recordings
            for index, size in zip(recording.indices, recording.planned_bytes, strict=True)
        }
        total = sum(planned.values())
        to_encode = sum(planned[task.index] for job in missing for task in job.tasks)
        stays = self._target.shares_disk(self._spool.folder)
        to_cut = total if stays else min(total, _CUT_AT_ONCE * self._shard_bytes)
        needed = round(_MORE_THAN_PLANNED * (to_encode + to_cut))
        if not self._spool.has_room(2 * needed):
            carrier.wait()
        self._spool.require_room(needed)
