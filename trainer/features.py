"""Audio features, computed on the device that the model lives on."""

import torch
from torch import Tensor, nn

from loader.backends import import_torchaudio

# About -100 dB of full scale: what lies below it in a recording is noise.
_FLOOR = 1e-5


class LogMel(nn.Module):
    """Log-mel power spectrogram.

    Always float32: the squares of a spectrogram leave float16's range, and autocast would
    choose float16 for the matrix product with the mel filters.
    """

    def __init__(self, sample_rate: int, *, n_mels: int, n_fft: int, hop_length: int) -> None:
        """Build the transform.

        Args:
            sample_rate: Hz of the waveforms to come.
            n_mels: bands, from 30 Hz (the piano's lowest note is 27.5 Hz) to Nyquist.
            n_fft, hop_length: window and step, samples.

        Raises:
            ImportError: torchaudio is not installed.
        """
        super().__init__()
        # Imported here and not above: training on MIDI alone never needs torchaudio.
        transforms = import_torchaudio().transforms
        self.hop_length = hop_length
        self.mel = transforms.MelSpectrogram(
            sample_rate,
            n_fft=n_fft,
            hop_length=hop_length,
            n_mels=n_mels,
            f_min=30.0,
            # Zeros, not a reflection: the end of a clip must look the same when padded.
            pad_mode="constant",
        )

    def forward(self, audio: Tensor) -> Tensor:
        """Return (B, n_mels, frames) float32 of audio (B, T) float32 in [-1, 1].

        Frame f is centred on sample f * hop_length; there are T // hop_length + 1 of them.
        """
        with torch.autocast(audio.device.type, enabled=False):
            return torch.log(torch.clamp(self.mel(audio.float()), min=_FLOOR))

    def frames(self, samples: Tensor) -> Tensor:
        """Return how many frames are centred on one of that many samples (int64, any shape)."""
        return (samples + self.hop_length - 1) // self.hop_length
