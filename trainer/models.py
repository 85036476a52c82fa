"""The rating models: encoders of audio, MIDI or both, a wide path, and a head per dimension."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from shards.pcm import INT16_SCALE
from trainer.attention import Encoded, Pool
from trainer.encoders import AudioEncoder, MidiEncoder
from trainer.features import LogMel
from trainer.fusion import Fusion, take_away
from trainer.pretrained import PretrainedEncoder, PretrainedOptions
from trainer.summary import NOTE_SCALE, note_figures, spectrum_figures, spectrum_scale
from trainer.wide import Wide

Mode = Literal["audio", "midi", "fusion"]
Batch = Mapping[str, Any]
Statistics = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a model is, and how it looks at audio (n_fft and hop_length in samples).

    Attributes:
        wide_dropout: share of the figures of the wide path that training leaves out.
        modality_dropout: share of the training rows of a fusion that lose a modality.
        gradient_checkpointing: compute transformer layers twice instead of keeping what they made.
        pretrained: an audio encoder that takes the place of log-mel and what follows it.
    """

    dim: int = 96
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    wide_dropout: float = 0.1
    n_mels: int = 64
    n_fft: int = 1024
    hop_length: int = 480
    modality_dropout: float = 0.0
    gradient_checkpointing: bool = False
    pretrained: PretrainedOptions | None = None


class RatingModel(nn.Module):
    """A batch to one rating per dimension: the sum of a deep and of a wide path."""

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
        scales = _scales(mode, size)
        self.wide = Wide(scales, dimensions=len(statistics), dropout=size.wide_dropout)
        self.modality_dropout = size.modality_dropout
        self.scale = Scale(statistics)

    def forward(self, batch: Batch) -> Tensor:
        """Return (B, D) float32 ratings in the labels' own units."""
        ratings: Tensor = self.scale.restore(self.normalised(batch))
        return ratings

    def normalised(
        self, batch: Batch, *, spectrogram: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Return (B, D) float32 ratings in standard deviations from the training mean.

        Args:
            batch: what ``loader.make_pipeline`` yields.
            spectrogram: an augmentation of log-mel; a pretrained encoder has none.
        """
        parts: dict[str, _Part] = {}
        if self.audio is not None:
            parts["audio"] = _hear(self.audio, batch, spectrogram)
        if self.midi is not None:
            parts["midi"] = _read(self.midi, batch)
        present = {name: part.present for name, part in parts.items()}
        if len(parts) > 1 and self.training and self.modality_dropout:
            heard, read = take_away(**present, share=self.modality_dropout)
            present = {"audio": heard, "midi": read}
        joined = self._joined({name: part.encoded for name, part in parts.items()}, present)
        deep = torch.cat([head(joined) for head in self.heads], dim=1).float()
        wide: Tensor = self.wide({name: part.figures for name, part in parts.items()}, present)
        return deep + wide

    def backbone(self) -> list[nn.Parameter]:
        """The parameters of the encoders that are trained; all others make ratings of them."""
        encoders = [encoder for encoder in (self.audio, self.midi) if encoder is not None]
        return [p for encoder in encoders for p in encoder.parameters() if p.requires_grad]

    def _joined(self, encoded: dict[str, Encoded], present: dict[str, Tensor]) -> Tensor:
        """(B, dim): one sequence is pooled whatever it holds, two are mixed by what there is."""
        if len(encoded) == 1:
            joined: Tensor = self.join(*encoded.values())
        else:
            joined = self.join(**encoded, heard=present["audio"], read=present["midi"])
        return joined


class _Part(NamedTuple):
    """What one modality has of a batch.

    Attributes:
        encoded: for the deep path.
        figures: (B, K) float32 for the wide path; K may be 0.
        present: (B,) bool, which rows have the modality.
    """

    encoded: Encoded
    figures: Tensor
    present: Tensor


def _hear(
    encoder: AudioEncoder | PretrainedEncoder,
    batch: Batch,
    augment: Callable[[Tensor], Tensor] | None,
) -> _Part:
    audio, frames = waveform(batch["audio"]), batch["audio_frames"]
    present = (frames > 0) & (audio != 0).any(dim=1)
    if isinstance(encoder, PretrainedEncoder):
        return _Part(encoder(audio, frames), audio.new_zeros(len(audio), 0), present)
    shown, real = encoder.spectrogram(audio), encoder.features.frames(frames)
    figures = spectrum_figures(shown, real)  # of the clip as it is: masks would bend them
    return _Part(encoder(shown if augment is None else augment(shown), real), figures, present)


def _read(encoder: MidiEncoder, batch: Batch) -> _Part:
    midi, notes = batch["midi"], batch["midi_notes"]
    return _Part(encoder(midi, notes), note_figures(midi, notes), notes > 0)


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


def waveform(audio: Tensor) -> Tensor:
    """Audio as it comes, int16 or floating point, as float32 in [-1, 1]."""
    if audio.dtype == torch.int16:
        return audio.float() / INT16_SCALE
    return audio.float()


def _audio_encoder(size: Size, *, sample_rate: int) -> AudioEncoder | PretrainedEncoder:
    if size.pretrained is not None:
        return PretrainedEncoder(
            size.pretrained,
            sample_rate=sample_rate,
            dim=size.dim,
            gradient_checkpointing=size.gradient_checkpointing,
        )
    features = LogMel(sample_rate, n_mels=size.n_mels, n_fft=size.n_fft, hop_length=size.hop_length)
    return AudioEncoder(
        features,
        n_mels=size.n_mels,
        dim=size.dim,
        layers=size.layers,
        heads=size.heads,
        dropout=size.dropout,
        gradient_checkpointing=size.gradient_checkpointing,
    )


def _midi_encoder(size: Size) -> MidiEncoder:
    return MidiEncoder(
        dim=size.dim,
        layers=size.layers,
        heads=size.heads,
        dropout=size.dropout,
        gradient_checkpointing=size.gradient_checkpointing,
    )


def _join(mode: Mode, size: Size) -> nn.Module:
    if mode == "fusion":
        return Fusion(size.dim, heads=size.heads)
    return Pool(size.dim, heads=size.heads)


def _scales(mode: Mode, size: Size) -> dict[str, Sequence[tuple[float, float]]]:
    """Of the figures of the wide path, by modality; a pretrained encoder has none."""
    scales: dict[str, Sequence[tuple[float, float]]] = {}
    if mode != "midi" and size.pretrained is None:
        scales["audio"] = spectrum_scale(size.n_mels)
    if mode != "audio":
        scales["midi"] = NOTE_SCALE
    return scales


def _head(size: Size) -> nn.Module:
    last = nn.Linear(size.dim, 1)
    # An untrained model rates everything at the training mean: the baseline to beat.
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(size.dim), nn.Linear(size.dim, size.dim), nn.GELU(), last)
