"""What a build would write, without encoding or writing anything."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packer.intake import Intake
from packer.options import Options
from packer.samples import plan_samples, read_samples
from packer.summary import label_stats
from shards.faults import Rejection
from shards.manifest import LabelStats
from shards.schema import Rules


@dataclass(frozen=True, slots=True)
class Planned:
    """One dataset that would be made.

    Attributes:
        split: its name; empty without splits.
        duration_s: seconds of all samples together.
        bytes: of all shards, estimated.
        groups: how many times recordings are encoded and then shuffled into shards.
        fields: extension of each modality that samples have.
        labels: their ratings by name.
    """

    split: str
    samples: int
    duration_s: float
    bytes: int
    groups: int
    shards: int
    fields: Mapping[str, str]
    labels: Mapping[str, LabelStats]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a build would make of its annotations, and what it would leave out."""

    datasets: Sequence[Planned]
    rejected: Sequence[Rejection]
    total: int


def plan(
    annotations: Path,
    rules: Rules,
    *,
    options: Options | None = None,
    intake: Intake | None = None,
    progress: bool = True,
) -> Plan:
    """Read and check annotations as a build does, and plan its shards.

    Samples that only encoding finds to be damaged are counted as good.

    Raises:
        AnnotationError: if there are none, or a line lacks the field to group by.
        ValueError: if a split would be empty.
    """
    options = options or Options()
    samples = read_samples(annotations, rules, options=options, intake=intake, progress=progress)
    datasets = []
    for split, part in samples.parts.items():
        segments = [samples.segments[index] for index in part]
        groups = plan_samples(segments, options) if segments else []
        datasets.append(
            Planned(
                split,
                len(segments),
                math.fsum(segment.duration_s for segment in segments),
                sum(sum(recording.planned_bytes) for g in groups for recording in g.recordings),
                len(groups),
                sum(len(group.shards) for group in groups),
                samples.corpus.members(options),
                label_stats(
                    samples.corpus.labels, (segment.annotation.labels for segment in segments)
                ),
            )
        )
    return Plan(datasets, samples.rejected, samples.total)
