"""Audio and MIDI to one vector, from both or from the one that a row has."""

import torch
from torch import Tensor, nn

from trainer.attention import Attention, Encoded, Pool


class Fusion(nn.Module):
    """Each modality asks the other by cross-attention, is pooled, and a gate mixes the two.

    What a row lacks has no part in it: nothing is asked of it, and the gate gives all to the
    other. So a row without MIDI is rated as by ``audio`` alone, and the reverse.

    The cross-attention's own gates, one a modality, begin at 0 (as in Alayrac et al.,
    "Flamingo", 2022): fusion begins as two encoders side by side.
    """

    def __init__(self, dim: int, *, heads: int) -> None:
        """Build it: ``dim`` is the width of both sequences and of what comes out."""
        super().__init__()
        self.audio_asks = Ask(dim, heads=heads)
        self.midi_asks = Ask(dim, heads=heads)
        self.audio_pool = Pool(dim, heads=heads)
        self.midi_pool = Pool(dim, heads=heads)
        self.gate = nn.Linear(2 * dim, dim)

    def forward(self, audio: Encoded, midi: Encoded, *, heard: Tensor, read: Tensor) -> Tensor:
        """Mix.

        Args:
            audio, midi: of (B, S, dim) and (B, N, dim).
            heard, read: (B,) bool, which rows have audio and which have MIDI. One that has
                neither is given an equal mix of what the encoders make of nothing.

        Returns:
            (B, dim).
        """
        from_audio = self.audio_pool(self.audio_asks(audio, midi, answers=read))
        from_midi = self.midi_pool(self.midi_asks(midi, audio, answers=heard))
        gate = torch.sigmoid(self.gate(torch.cat([from_audio, from_midi], dim=1)))
        # Exactly 1 or 0, so that what a row lacks has no gradient either.
        gate = torch.where((heard & ~read)[:, None], 1.0, gate)
        gate = torch.where((read & ~heard)[:, None], 0.0, gate)
        mixed: Tensor = gate * from_audio + (1.0 - gate) * from_midi
        return mixed


class Ask(nn.Module):
    """Cross-attention that a gate adds, in rows that have something to ask."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads=heads)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Encoded, other: Encoded, *, answers: Tensor) -> Encoded:
        """Return x with what it gathered; ``answers`` (B,) bool tells where there is any."""
        gathered = torch.tanh(self.gate) * self.attention(self.norm(x.values), other)
        values = x.values + torch.where(answers[:, None, None], gathered, 0.0)
        return Encoded(values, x.mask)


def take_away(audio: Tensor, midi: Tensor, *, share: float) -> tuple[Tensor, Tensor]:
    """Take one modality, either with equal chance, from a share of the rows that have both.

    So there are rows of one modality in training, too, and their ratings mean something.

    Args:
        audio, midi: (B,) bool, which rows have it.
        share: in [0, 1].

    Returns:
        The same two, after some were taken away.
    """
    draw = torch.rand(len(audio), device=audio.device)
    both = audio & midi
    deaf = both & (draw < share / 2)
    blind = both & ~deaf & (draw < share)
    return audio & ~deaf, midi & ~blind
