"""One modality of a batch to a sequence of vectors."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from trainer.attention import Encoded, Transformer, real_positions
from trainer.features import LogMel

# Values per token column: type, beat in bar, position, pitch - 21, duration, velocity,
# instrument, bar. Larger ones (a beat past 127) share the last row of their table.
VOCABULARY = (4, 128, 16, 88, 128, 128, 2, 512)
_NAMES = (0, 6)  # columns whose values have no order: type and instrument
_WAVES = 8


class AudioEncoder(nn.Module):
    """Waveform to log-mel, strided convolutions, and a transformer over what is left.

    Everything past a clip's end is zeroed before each convolution, so that padding, however
    long, changes nothing.
    """

    def __init__(
        self,
        features: LogMel,
        *,
        n_mels: int,
        dim: int,
        layers: int,
        heads: int,
        dropout: float,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.features = features
        widths = (n_mels, dim, dim, dim)
        self.convolutions = nn.ModuleList(_Halve(wide, out) for wide, out in pairwise(widths))
        self.transformer = Transformer(
            dim,
            layers=layers,
            heads=heads,
            dropout=dropout,
            gradient_checkpointing=gradient_checkpointing,
        )

    def spectrogram(self, audio: Tensor) -> Tensor:
        """(B, n_mels, F) float32 log-mel of (B, T) float32 in [-1, 1], centred on 0.

        Bands of music spread over about -10 to 6; centred, they train at once.
        """
        bands: Tensor = self.features(audio)
        return (bands + 2.0) / 4.0

    def forward(self, spectrogram: Tensor, real: Tensor) -> Encoded:
        """Encode a batch of clips.

        Args:
            spectrogram: (B, n_mels, F) as ``spectrogram`` makes it, perhaps augmented.
            real: (B,) int64, how many of the F frames are real; may be 0.

        Returns:
            Values (B, 1 + ceil(frames / 8), dim): the transformer's start, then the clip.
        """
        x = spectrogram
        for halve in self.convolutions:
            x, real = halve(x, real)
        x = x.transpose(1, 2)
        values = x + _positions(x.shape[1], dim=x.shape[2], device=x.device).to(x.dtype)
        encoded: Encoded = self.transformer(Encoded(values, real_positions(values.shape[1], real)))
        return encoded


class MidiEncoder(nn.Module):
    """OctupleMIDI notes to a sequence: eight embeddings summed, then a transformer.

    There is no further position: bar, beat and position say where a note lies.
    """

    columns: Tensor

    def __init__(
        self,
        *,
        dim: int,
        layers: int,
        heads: int,
        dropout: float,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        largest = torch.tensor(VOCABULARY) - 1
        first_row = torch.cumsum(torch.tensor((0, *VOCABULARY[:-1])), dim=0)
        # One table for all eight columns: one gather instead of eight.
        self.register_buffer("columns", torch.stack([largest, first_row]), persistent=False)
        self.embedding = nn.Embedding(sum(VOCABULARY), dim)
        tables = [_table(size, dim, ordered=c not in _NAMES) for c, size in enumerate(VOCABULARY)]
        with torch.no_grad():
            self.embedding.weight.copy_(torch.cat(tables) * len(VOCABULARY) ** -0.5)
        self.transformer = Transformer(
            dim,
            layers=layers,
            heads=heads,
            dropout=dropout,
            gradient_checkpointing=gradient_checkpointing,
        )

    def forward(self, midi: Tensor, midi_notes: Tensor) -> Encoded:
        """Encode a batch of performances.

        Args:
            midi: (B, N, 8) int64 OctupleMIDI rows, zero past the last note.
            midi_notes: (B,) int64, how many of the N rows are notes; may be 0.

        Returns:
            Values (B, 1 + notes, dim): the transformer's start, then the notes.
        """
        if midi.device.type == "cpu":
            # Attention grows with the square of the length and clips have far fewer notes
            # than rows. On a GPU the length would be a wait for the device instead.
            midi = midi[:, : int(midi_notes.max())]
        largest, first_row = self.columns
        rows = torch.minimum(midi.clamp(min=0), largest) + first_row
        values = self.embedding(rows).sum(dim=2)
        encoded: Encoded = self.transformer(
            Encoded(values, real_positions(midi.shape[1], midi_notes))
        )
        return encoded


class _Halve(nn.Module):
    """A convolution of stride 2 over time, normalised within each frame."""

    def __init__(self, wide: int, out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(wide, out, kernel_size=5, stride=2, padding=2)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """(B, wide, F) of which ``real`` (B,) frames count, to (B, out, ceil(F / 2))."""
        x = torch.where(real_positions(x.shape[2], real)[:, None, :], x, 0.0)
        y = self.norm(self.convolution(x).transpose(1, 2)).transpose(1, 2)
        return nn.functional.gelu(y), (real + 1) // 2


def _table(size: int, dim: int, *, ordered: bool) -> Tensor:
    """(size, dim) random vectors of variance 1; of ordered values, neighbours lie close together.

    A thousand performances do not show each of 128 velocities or durations often enough to
    learn from nothing that 70 lies between 69 and 71.
    """
    own = torch.randn(size, dim)
    if not ordered:
        return own
    waves = torch.arange(1, _WAVES + 1) / 2
    phase = torch.arange(size)[:, None] / size * 2 * math.pi * waves
    curves = torch.cat([phase.sin() / waves, phase.cos() / waves], dim=1)
    smooth = (curves - curves.mean(dim=0)) @ torch.randn(2 * _WAVES, dim)
    return 0.9 * smooth / smooth.std() + 0.4 * own


def _positions(length: int, *, dim: int, device: torch.device) -> Tensor:
    """(length, dim) sines and cosines whose periods rise from 2 pi to 10,000 * 2 pi."""
    steps = torch.arange(length, device=device, dtype=torch.float32)
    rates = torch.exp(torch.linspace(0.0, -9.21, (dim + 1) // 2, device=device))
    phase = steps[:, None] * rates
    return torch.cat([phase.sin(), phase.cos()], dim=1)[:, :dim]
