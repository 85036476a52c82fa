"""What shapes a dataset, checked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import soundfile

from packer.audio import CODECS, COPY

MIDI_FORMS = ("mid", "notes")
ORDERS = ("shuffled", "given")


@dataclass(frozen=True, slots=True)
class Options:
    """What shapes the samples and shards; kept in the manifest.

    Attributes:
        audio: codec of the audio members: flac, wav, ogg (Vorbis), opus, mp3 or npy; copy takes
            recordings along as they are, at the rate and with the channels they have.
        midi: mid, or notes for a table of the notes beside each MIDI file.
        sample_rate: Hz that audio is resampled to.
        channels: 1 mixes recordings down to mono, 2 makes all of them stereo.
        shard_bytes: size that shards are planned for.
        group_bytes: planned bytes that are shuffled together, and encoded before shards are cut.
        order: shuffled, or given: recordings in the order of the annotations, and the samples of
            each together.
        seed: fixes the order of samples.
        split: share of each split by name, summing to 1 or as a ratio; empty makes one dataset
            without splits.
        split_by: annotation field that names the split of each sample; no shares are given then.
        group_by: annotation field whose values stay within one split; None is the recording.
    """

    audio: str = "flac"
    midi: str = "mid"
    sample_rate: int = 24000
    channels: int = 1
    shard_bytes: int = 32 * 10**6
    group_bytes: int = 8 * 10**9
    order: str = "shuffled"
    seed: int = 0
    split: Mapping[str, float] = field(default_factory=dict)
    split_by: str | None = None
    group_by: str | None = None

    def __post_init__(self) -> None:
        _choose("audio", self.audio, (*CODECS, COPY))
        _choose("midi", self.midi, MIDI_FORMS)
        _choose("order", self.order, ORDERS)
        for name in ("sample_rate", "shard_bytes", "group_bytes"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if self.channels not in (1, 2):
            raise ValueError(f"channels must be 1 or 2, got {self.channels}")
        if self.audio != COPY:
            _check_codec(self.audio, self.sample_rate, self.channels)
        elif self.channels != 1:
            raise ValueError("audio=copy keeps the channels of each recording: leave channels out")
        _check_shares(self.split)
        if self.split_by is not None and (self.split or self.group_by is not None):
            raise ValueError("split_by decides alone: leave split and group_by out")


def _choose(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _check_codec(name: str, sample_rate: int, channels: int) -> None:
    """Refuse what a codec cannot be, or the installed libsndfile cannot write."""
    codec = CODECS[name]
    if codec.rates and sample_rate not in codec.rates:
        rates = ", ".join(map(str, codec.rates))
        raise ValueError(f"sample_rate of {name} must be one of {rates}, got {sample_rate}")
    if not codec.lowest <= sample_rate <= codec.highest:
        bounds = f"from {codec.lowest} to {codec.highest}"
        raise ValueError(f"sample_rate of {name} must be {bounds}, got {sample_rate}")
    if channels > codec.channels:
        raise ValueError(f"channels of {name} must be 1, got {channels}: choose another codec")
    if codec.written:
        container, subtype = codec.written["format"], codec.written["subtype"]
        if not soundfile.check_format(container, subtype):
            raise ValueError(
                f"libsndfile {soundfile.__libsndfile_version__} cannot write {name}, which takes "
                "1.1: pip install --upgrade soundfile"
            )


def _check_shares(split: Mapping[str, float]) -> None:
    """Shares of splits sum to 1, or are a ratio."""
    if not all(0 < share < math.inf for share in split.values()):
        raise ValueError(f"shares of splits must be positive and finite, got {dict(split)}")
    total, ratio = sum(split.values()), all(share >= 1 for share in split.values())
    if not ratio and abs(total - 1) > 1e-6:
        raise ValueError(
            f"shares of splits must sum to 1, or be a ratio such as 8, 1 and 1; "
            f"{dict(split)} sum to {total:g}"
        )
