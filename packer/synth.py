"""A piano out of a SoundFont: notes and pedal in, stereo sound out.

symusic 0.5.9 renders a SoundFont's tones well and fast, but every velocity alike, without the
sustain pedal, and with notes that break off: ratings of touch and pedal could not be heard. So it
renders each key once, held down, and the playing is done here.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from symusic.core import NoteTick, ScoreSecond, ScoreTick, Synthesizer, TempoTick, TrackTick

from shards.errors import DataError

SAMPLE_RATE: Final = 44_100
SUSTAIN = 64  # controller number, and the value from which the pedal counts as down
LONGEST_S = 10  # no string is heard longer
RELEASE_S = 0.12  # from the key's release until the damper has silenced the string
LAST_DAMPER = 89  # keys from here on have none, and ring on
INAUDIBLE_DB = 60.0

Sound = NDArray[np.float32]


class Piano:
    """Plays scores with one SoundFont's first program; tones are rendered on first use and kept."""

    def __init__(self, soundfont: Path) -> None:
        self._synthesizer = Synthesizer(str(soundfont), SAMPLE_RATE, 0)
        self._tones: dict[int, Sound] = {}

    def play(self, score: ScoreSecond) -> Sound:
        """Return (frames, 2) float32 of all tracks but drums; ends when the last string is still.

        A single note at full velocity peaks near 0.2; many together can pass 1.
        """
        notes = sounding(score)
        frames = _frames(notes[:, 1].max() + RELEASE_S) if len(notes) else 0
        sound = np.zeros((frames, 2), np.float32)
        for onset_s, release_s, pitch, velocity in notes:
            tone = self._tone(int(pitch))
            damped = _damp(tone, _frames(release_s - onset_s), rings_on=pitch >= LAST_DAMPER)
            first = _frames(onset_s)
            room = sound[first : first + len(damped)]
            room += damped[: len(room)] * np.float32((velocity / 127) ** 2)
        return sound

    def _tone(self, pitch: int) -> Sound:
        if pitch not in self._tones:
            self._tones[pitch] = self._render(pitch)
        return self._tones[pitch]

    def _render(self, pitch: int) -> Sound:
        """Return (frames, 2): one key struck and held until inaudible.

        The SoundFont loops its samples at constant loudness; strings do not, and treble strings
        fall silent first: 4 dB a second at C2, twice that every two octaves.
        """
        score = ScoreTick(480)
        score.tempos.append(TempoTick(0, qpm=60.0))
        track = TrackTick("piano", 0, False)
        track.notes.append(NoteTick(0, 480 * LONGEST_S, pitch, 127))
        score.tracks.append(track)
        try:
            tone = self._synthesizer.render(score, True).T[: _frames(LONGEST_S)]
        except TypeError as error:  # what symusic 0.6.0 raises, whatever the score
            found = version("symusic")
            raise DataError(f"symusic {found} cannot render; pip install symusic==0.5.9") from error
        decay_db_s = 4 * 2 ** ((pitch - 36) / 24)
        tone = tone[: _frames(INAUDIBLE_DB / decay_db_s)]
        time_s = np.arange(len(tone), dtype=np.float32) / SAMPLE_RATE
        fade = np.power(np.float32(10), np.float32(-decay_db_s / 20) * time_s)
        held: Sound = np.ascontiguousarray(tone * fade[:, None])
        return held


def sounding(score: ScoreSecond) -> NDArray[np.float64]:
    """Return (N, 4) onset_s, release_s, pitch and velocity: what each string does.

    All tracks but drums share one pedal, which holds every note until it comes up. A string struck
    again stops its earlier note. Rows are in order of pitch, then onset.
    """
    tracks = [track for track in score.tracks if not track.is_drum]
    columns = [track.notes.numpy() for track in tracks]
    names = ("time", "duration", "pitch", "velocity")
    notes = np.concatenate(
        [np.empty((0, 4)), *(np.stack([c[n] for n in names], axis=1) for c in columns)]
    )
    notes[:, 1] += notes[:, 0]
    pedal = sorted(
        (float(control.time), control.value >= SUSTAIN)
        for track in tracks
        for control in track.controls
        if control.number == SUSTAIN
    )
    notes[:, 1] = _held(notes[:, 1], pedal)
    notes = notes[np.lexsort((notes[:, 0], notes[:, 2]))]
    again = notes[1:, 2] == notes[:-1, 2]
    notes[:-1, 1][again] = np.minimum(notes[:-1, 1], notes[1:, 0])[again]
    return notes


def _held(release_s: NDArray[np.float64], pedal: list[tuple[float, bool]]) -> NDArray[np.float64]:
    """Return (N,) release times put off while the pedal is down; at the latest to the end."""
    if not len(release_s):
        return release_s
    end_s = max(release_s.max(), *(time for time, _ in pedal), 0.0)
    up_next = np.full(len(pedal) + 1, end_s)
    for i in reversed(range(len(pedal))):
        time_s, down = pedal[i]
        up_next[i] = up_next[i + 1] if down else time_s
    state = np.searchsorted(np.array([time for time, _ in pedal]), release_s, side="right")
    down_then = np.array([False, *(down for _, down in pedal)])[state]
    return np.where(down_then, up_next[state], release_s)


def _damp(tone: Sound, frames: int, *, rings_on: bool) -> Sound:
    """Return the tone cut off ``frames`` after the stroke, faded out over RELEASE_S."""
    if rings_on:
        frames = len(tone)
    fade_frames = _frames(RELEASE_S)
    damped = tone[: frames + fade_frames].copy()
    fading = damped[frames:] if frames < len(tone) else damped[-fade_frames:]
    fading *= np.linspace(1, 0, len(fading), dtype=np.float32)[:, None] ** 2
    return damped


def _frames(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)
