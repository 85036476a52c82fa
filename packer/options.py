"""What shapes a dataset, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from packer.audio import EXTENSIONS

_HIGHEST_RATE = 655_350  # Hz: what FLAC's header can say


@dataclass(frozen=True, slots=True)
class Options:
    """What shapes the samples and shards; kept in the manifest.

    Attributes:
        audio: codec of the audio members: flac, wav or npy.
        sample_rate: Hz that audio is resampled to.
        shard_bytes: size that shards are planned for.
        group_bytes: planned bytes that are shuffled together, and encoded before shards are cut.
        seed: fixes the order of samples.
        split: share of each split by name, summing to 1 or as a ratio; empty makes one dataset
            without splits.
        group_by: annotation field whose values stay within one split; None is the recording.
    """

    audio: str = "flac"
    sample_rate: int = 24000
    shard_bytes: int = 32 * 10**6
    group_bytes: int = 8 * 10**9
    seed: int = 0
    split: Mapping[str, float] = field(default_factory=dict)
    group_by: str | None = None

    def __post_init__(self) -> None:
        if self.audio not in EXTENSIONS:
            raise ValueError(f"audio must be one of {', '.join(EXTENSIONS)}, got {self.audio!r}")
        for name in ("sample_rate", "shard_bytes", "group_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.sample_rate > _HIGHEST_RATE:
            raise ValueError(f"sample_rate must be at most {_HIGHEST_RATE}, got {self.sample_rate}")
        total, ratio = sum(self.split.values()), all(share >= 1 for share in self.split.values())
        if not ratio and abs(total - 1) > 1e-6:
            raise ValueError(
                f"shares of splits must sum to 1, or be a ratio such as 8, 1 and 1; "
                f"{dict(self.split)} sum to {total:g}"
            )
        if any(share <= 0 for share in self.split.values()):
            raise ValueError(f"shares of splits must be positive, got {dict(self.split)}")
