"""How the command line tells what was made, or would be."""

from collections.abc import Collection, Mapping

from packer.preview import Plan
from packer.report import Report, by_kind
from shards.manifest import LabelStats, Manifest


def write_summary(url: str, manifest: Manifest, *, made: bool) -> str:
    """A dataset in words: samples, hours, shards, bytes, what they hold, and their labels."""
    amounts = _amounts(manifest.samples, manifest.duration_s, len(manifest.shards), manifest.bytes)
    state = "made" if made else "complete already"
    return "\n".join([f"{url}: {state}: {amounts}", *_contents(manifest.fields, manifest.labels)])


def write_labels(labels: Mapping[str, LabelStats]) -> list[str]:
    """A line for each label: how many samples have it, its range and mean."""
    width = max(map(len, labels), default=0)
    return [
        f"  {name:{width}}  {stats.count} ratings, {stats.min:g} to {stats.max:g}, "
        f"mean {stats.mean:.4g}"
        for name, stats in labels.items()
    ]


def write_plan(plan: Plan, report: Report) -> str:
    """In words, what a build would make and leave out."""
    lines = []
    for one in plan.datasets:
        amounts = _amounts(one.samples, one.duration_s, one.shards, one.bytes)
        lines.append(f"{one.split or 'dataset'}: about {amounts}")
        lines += _contents(one.fields, one.labels) if one.samples else []
    lines.append(f"{report.left_out} of {report.total} annotations would be left out")
    return "\n".join([*lines, *by_kind(report.rejected)])


def _contents(fields: Collection[str], labels: Mapping[str, LabelStats]) -> list[str]:
    """Which of audio and MIDI there is, and the labels, or that there are none."""
    if {"audio", "midi"} <= set(fields):
        held = "audio and MIDI"
    else:
        held = "audio alone" if "audio" in fields else "MIDI alone" if "midi" in fields else "JSON"
    return [f"  {held}, {len(labels) or 'no'} labels", *write_labels(labels)]


def _amounts(samples: int, seconds: float, shards: int, size: int) -> str:
    return f"{samples} samples, {seconds / 3600:.2f} h, {shards} shards, {size / 1e6:.1f} MB"
