"""How fast the installed libraries decode a clip made here, and whether they agree."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from io import BytesIO

import miniaudio
import numpy as np
import soundfile
from numpy.typing import NDArray

from loader.audio import decode_window
from loader.backends import import_torchcodec
from loader.finding import Finding
from shards.errors import DecodeError

SAMPLE_RATE = 24000
CLIP_SECONDS = 10

_MEASURED_S = 0.3
_REFERENCE = "soundfile"
_TOLERANCE = 0.5 / 32768  # half a step of 16 bits: rounding differs, samples do not

Samples = NDArray[np.float32]
Reader = Callable[[bytes], Samples]


def make_clip() -> bytes:
    """A FLAC file of ten seconds at 24 kHz: decaying tones over soft noise, like a recording."""
    rng = np.random.default_rng(0)
    times = np.arange(CLIP_SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    since = times % 0.5  # a note each half second
    notes = 110.0 * 2 ** ((times // 0.5 * 7 % 37) / 12)
    tones = sum(np.sin(2 * np.pi * h * notes * since) / h**2 for h in range(1, 9))
    sound = 0.2 * np.exp(-4 * since) * tones + 1e-4 * rng.standard_normal(len(times))
    target = BytesIO()
    soundfile.write(target, sound, SAMPLE_RATE, format="FLAC")
    return target.getvalue()


def check_codecs() -> Iterator[Finding]:
    """Speed and agreement of every decoder of FLAC that is there."""
    return judge_codecs(make_clip(), _readers())


def judge_codecs(clip: bytes, readers: Mapping[str, Reader]) -> Iterator[Finding]:
    """Time readers of FLAC, and compare what each gives with what soundfile gives."""
    expected = readers[_REFERENCE](clip)
    for name, read in readers.items():
        subject, again = f"FLAC by {name}", f"pip install --force-reinstall miniaudio {_REFERENCE}"
        try:
            samples, rate = read(clip), _clips_per_s(partial(read, clip))
        except (DecodeError, OSError, RuntimeError, ValueError, miniaudio.MiniaudioError) as error:
            yield Finding("fail", subject, f"does not decode a good clip: {error}", again)
            continue
        if samples.shape != expected.shape or np.abs(samples - expected).max() > _TOLERANCE:
            text = f"decodes a clip to other samples than {_REFERENCE}"
            yield Finding("fail", subject, text, again)
        else:
            yield Finding("ok", subject, f"{rate:.0f} ten-second clips a second on one core")


def _readers() -> dict[str, Reader]:
    """The way this loader decodes first, then each library through its own functions."""
    readers: dict[str, Reader] = {
        "this loader": _by_loader,
        "miniaudio": lambda clip: np.asarray(miniaudio.flac_read_f32(clip).samples, np.float32),
        _REFERENCE: lambda clip: np.asarray(soundfile.read(BytesIO(clip), dtype="float32")[0]),
    }
    try:
        decoder = import_torchcodec().AudioDecoder
    except ImportError:  # the report on backends has it
        return readers
    return readers | {"torchcodec": lambda clip: decoder(clip).get_all_samples().data[0].numpy()}


def _by_loader(clip: bytes) -> Samples:
    row = np.empty(CLIP_SECONDS * SAMPLE_RATE, np.float32)
    return row[: decode_window(clip, "flac", row, sample_rate=SAMPLE_RATE)]


def _clips_per_s(decode: Callable[[], object]) -> float:
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < _MEASURED_S:
        decode()
        count += 1
    return count / (time.perf_counter() - began)
