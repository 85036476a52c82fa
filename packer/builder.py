"""Makes one dataset, group after group."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from packer.carry import Carrier, Stop
from packer.cluster import Cluster, Crew
from packer.copies import Copies
from packer.encode import Encoded
from packer.intake import Intake
from packer.jobs import Jobs
from packer.journal import Done, Journal, kept_samples
from packer.options import Options
from packer.plan import Group
from packer.processes import Processes
from packer.report import Report
from packer.samples import Samples, plan_samples
from packer.shard import Written
from packer.spool import Spool
from packer.summary import label_stats
from packer.target import Target
from shards import __version__
from shards.faults import Rejection
from shards.keys import KEYS, keys_bytes
from shards.manifest import NAME, Manifest, dump_manifest

log = logging.getLogger("packer")


@dataclass(frozen=True, slots=True)
class Built:
    """One dataset that was made, or found complete."""

    url: str
    manifest: Manifest
    made: bool


class Builder:
    """Makes one dataset; ``make``, ``finish`` and ``end`` come in this order."""

    def __init__(
        self,
        samples: Samples,
        *,
        options: Options,
        intake: Intake,
        target: Target,
        name: str,
        spool: Spool,
        stop: Stop,
        copies: Copies,
        workers: int | None,
        cluster: Cluster | None,
        progress: bool,
    ) -> None:
        self._segments, self._corpus = samples.segments, samples.corpus
        self._jobs = Jobs(samples, options, spool)
        self._options, self._target, self._name = options, target, name
        self._spool, self._stop, self._copies = spool, stop, copies
        self._identity = asdict(options) | intake.noted | {"input_sha256": samples.identity}
        self._finished: Manifest | None = None
        self._done: list[Done] = []
        self.journal = Journal(target, name, self._identity)
        self._crew: Processes | Crew
        if cluster is not None:
            self._crew = Crew(cluster, target, stop=stop, progress=progress)
        else:
            self._crew = Processes(
                target,
                self.journal,
                spool,
                copies,
                stop=stop,
                shard_bytes=options.shard_bytes,
                workers=workers,
                progress=progress,
            )

    def make(self, report: Report) -> bool:
        """Make what is missing of the shards, and add what is left out to the report.

        Returns:
            Whether the dataset was found finished.
        """
        self._finished = self.journal.finished()
        if self._finished is not None:
            report.rejected += self._rejections(self.journal.rejected())
            return True
        self.journal.begin()
        groups = plan_samples(self._segments, self._options, at=self._copies.at)
        self._crew.begin(self._jobs.of(group) for group in groups)
        first = 0
        with Carrier[Done](self._stop) as carrier:
            for number, group in enumerate(groups):
                carry, rejected = self._prepare(number, group, first, carrier)
                report.rejected += self._rejections(rejected)
                carrier.submit(carry)
                first += len(kept_samples(group.shards, rejected))
            self._done = carrier.results()
        return False

    @property
    def samples(self) -> int:
        """How many could be packed."""
        if self._finished is not None:
            return self._finished.samples
        return sum(len(done.durations) for done in self._done)

    def finish(self) -> Built:
        """Write the manifest, if it is not there, and what else goes with it."""
        if self._finished is not None:
            return Built(self._target.url, self._finished, made=False)
        shards = [shard for done in self._done for shard in done.shards]
        manifest = self._manifest(shards)
        self.journal.remove_other_shards([shard.info.url for shard in shards])
        self._target.write(KEYS, keys_bytes(self._keys(shard) for shard in shards))
        self._target.write(NAME, dump_manifest(manifest))
        return Built(self._target.url, manifest, made=True)

    def end(self) -> None:
        """Remove what only an unfinished build needs."""
        self._spool.end()
        self.journal.end()

    def _prepare(
        self, number: int, group: Group, first: int, carrier: Carrier[Done]
    ) -> tuple[Callable[[], Done], dict[int, str]]:
        """Encode a group, unless it is in the target; how it gets there, and what is left out."""
        done = self.journal.group(number, group.shards, first=first)
        if done is not None:
            return lambda: done, dict(done.rejected)
        encoded = self._crew.encode(group, self._jobs.of(group), carrier)
        self._warn_of_clipping(place for _, place in encoded.values())
        rejected = {i: place.reason for i, (_, place) in encoded.items() if place.reason}
        shards = kept_samples(group.shards, rejected)
        return partial(self._carry, number, shards, encoded, rejected, first), rejected

    def _carry(
        self,
        number: int,
        shards: Sequence[tuple[int, ...]],
        encoded: Mapping[int, tuple[Path, Encoded]],
        rejected: Mapping[int, str],
        first: int,
    ) -> Done:
        """Cut the shards of a group, and note that they are in the target."""
        written = self._crew.cut(shards, encoded, first=first)
        durations = {i: encoded[i][1].duration_s for shard in shards for i in shard}
        done = Done(written, durations, rejected)
        self.journal.finish_group(number, done)
        self._crew.forget(encoded.values())
        return done

    def _warn_of_clipping(self, places: Iterable[Encoded]) -> None:
        clipped = sorted(place.index for place in places if place.clipped)
        if clipped:
            example = self._segments[clipped[0]].annotation
            log.warning(
                "%d samples clip: 4 frames in a row, or one in a thousand, are as loud as their "
                "recording can hold; such as line %d, key %s",
                *(len(clipped), example.line, example.key),
            )

    def _rejections(self, reasons: Mapping[int, str]) -> list[Rejection]:
        lines = {index: self._segments[index].annotation for index in reasons}
        return [Rejection(lines[i].line, why, lines[i].record) for i, why in reasons.items()]

    def _keys(self, shard: Written) -> list[str]:
        return [self._segments[index].annotation.key for index in shard.samples]

    def _manifest(self, shards: Sequence[Written]) -> Manifest:
        packed = [index for shard in shards for index in shard.samples]
        assert len(packed) == len(set(packed)), "a sample is in two shards"
        durations = (second for done in self._done for second in done.durations.values())
        labels = (dict(self._segments[index].annotation.labels) for index in packed)
        return Manifest(
            name=self._name,
            shards=tuple(shard.info for shard in shards),
            fields=self._corpus.members(self._options),
            labels=label_stats(self._corpus.labels, labels),
            options=self._identity,
            duration_s=round(math.fsum(durations), 3),
            packer_version=__version__,
        )
