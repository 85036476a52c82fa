"""Which recordings may go along as they are, with ``--audio copy``."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from packer.audio import COPIED
from packer.segments import Segment
from shards.faults import Kind, Rejection
from shards.pcm import HIGHEST_RATE, LOWEST_RATE


def copied_extension(recordings: Iterable[Path]) -> str:
    """The extension that most recordings have, of those that may be copied."""
    counts = dict.fromkeys(COPIED, 0)
    for recording in recordings:
        if (extension := extension_of(recording)) in counts:
            counts[extension] += 1
    return max(COPIED, key=lambda extension: counts[extension])


def extension_of(recording: Path) -> str:
    """In small letters, without its dot."""
    return recording.suffix[1:].lower()


def copyable(segments: Sequence[Segment], extension: str) -> tuple[list[Segment], list[Rejection]]:
    """The segments whose recordings can be copied, and why the others cannot.

    Args:
        extension: that samples have.
    """
    kept: list[Segment] = []
    rejected: list[Rejection] = []
    for segment in segments:
        one, reason = segment.annotation, _refusal(segment, extension)
        if reason:
            reason = f"{one.audio}: {reason}"
            rejected.append(Rejection(one.line, reason, one.record, Kind.NOT_COPYABLE))
        else:
            kept.append(segment)
    return kept, rejected


def _refusal(segment: Segment, extension: str) -> str:
    """Why a recording cannot go along as it is; empty if it can."""
    annotation = segment.annotation
    if annotation.audio is None:
        return ""
    own = extension_of(annotation.audio)
    if own not in COPIED:
        return f"only {', '.join(COPIED)} can be copied"
    if own != extension:
        return (
            f"is no .{extension} as most of the recordings are, and the samples of a dataset have "
            "one codec"
        )
    if not LOWEST_RATE <= segment.rate <= HIGHEST_RATE:
        return f"is at {segment.rate} Hz; {LOWEST_RATE} to {HIGHEST_RATE} are read"
    if annotation.start_s or annotation.end_s is not None:
        return "a segment cannot be copied"
    return ""
