"""The rating models: encoders of audio, MIDI or both, and a head per dimension."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainer.attention import Encoded, Pool
from trainer.encoders import AudioEncoder, MidiEncoder
from trainer.features import LogMel

Mode = Literal["audio", "midi", "fusion"]
Batch = Mapping[str, Any]
Statistics = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a model is, and how it looks at audio (n_fft and hop_length in samples)."""

    dim: int = 96
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    n_mels: int = 64
    n_fft: int = 1024
    hop_length: int = 480


class RatingModel(nn.Module):
    """A batch to one rating per dimension."""

    def __init__(self, mode: Mode, *, statistics: Statistics, sample_rate: int, size: Size) -> None:
        """Build the model of one mode.

        Args:
            mode: what it listens to; batches need not hold anything else.
            statistics: ``mean`` and ``std`` of every dimension's labels over the training
                samples, in the order of the batch's labels.
            sample_rate: Hz of the batch's audio.
        """
        super().__init__()
        self.audio = _audio_encoder(size, sample_rate=sample_rate) if mode != "midi" else None
        self.midi = _midi_encoder(size) if mode != "audio" else None
        self.join: nn.Module = _join(mode, size)
        self.heads = nn.ModuleList(_head(size) for _ in statistics)
        self.scale = Scale(statistics)

    def forward(self, batch: Batch) -> Tensor:
        """Return (B, D) float32 ratings in the labels' own units."""
        ratings: Tensor = self.scale.restore(self.normalised(batch))
        return ratings

    def normalised(self, batch: Batch) -> Tensor:
        """Return (B, D) float32 ratings in standard deviations from the training mean."""
        encoded = []
        if self.audio is not None:
            encoded.append(self.audio(batch["audio"], batch["audio_frames"]))
        if self.midi is not None:
            encoded.append(self.midi(batch["midi"], batch["midi_notes"]))
        joined = self.join(*encoded)
        return torch.cat([head(joined) for head in self.heads], dim=1).float()


class Scale(nn.Module):
    """The units of the labels; buffers, so that a checkpoint predicts in them."""

    mean: Tensor
    std: Tensor

    def __init__(self, statistics: Statistics) -> None:
        super().__init__()
        mean = torch.tensor([label["mean"] for label in statistics.values()])
        std = torch.tensor([label["std"] for label in statistics.values()])
        self.register_buffer("mean", mean.float())
        # A label that never varies is only shifted.
        self.register_buffer("std", torch.where(std > 0, std, 1.0).float())

    def normalise(self, labels: Tensor) -> Tensor:
        """(B, D) labels to standard deviations from the mean; NaN stays NaN."""
        return (labels - self.mean) / self.std

    def restore(self, normalised: Tensor) -> Tensor:
        return normalised * self.std + self.mean


class LateFusion(nn.Module):
    """Both modalities pooled apart, then mixed by a learned gate per feature.

    It is handed sequences, not vectors, so that attention between them can take its place.
    """

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.audio_pool = Pool(dim, heads=heads)
        self.midi_pool = Pool(dim, heads=heads)
        self.gate = nn.Linear(2 * dim, dim)

    def forward(self, audio: Encoded, midi: Encoded) -> Tensor:
        """Return (B, dim)."""
        heard, read = self.audio_pool(audio), self.midi_pool(midi)
        gate = torch.sigmoid(self.gate(torch.cat([heard, read], dim=1)))
        mixed: Tensor = gate * heard + (1.0 - gate) * read
        return mixed


def _audio_encoder(size: Size, *, sample_rate: int) -> AudioEncoder:
    features = LogMel(sample_rate, n_mels=size.n_mels, n_fft=size.n_fft, hop_length=size.hop_length)
    return AudioEncoder(
        features,
        n_mels=size.n_mels,
        dim=size.dim,
        layers=size.layers,
        heads=size.heads,
        dropout=size.dropout,
    )


def _midi_encoder(size: Size) -> MidiEncoder:
    return MidiEncoder(dim=size.dim, layers=size.layers, heads=size.heads, dropout=size.dropout)


def _join(mode: Mode, size: Size) -> nn.Module:
    if mode == "fusion":
        return LateFusion(size.dim, heads=size.heads)
    return Pool(size.dim, heads=size.heads)


def _head(size: Size) -> nn.Module:
    last = nn.Linear(size.dim, 1)
    # An untrained model rates everything at the training mean: the baseline to beat.
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(size.dim), nn.Linear(size.dim, size.dim), nn.GELU(), last)
