"""Audio files made of chunks, whose headers tell whether they are cut off: WAV, AIFF and kin."""

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct

from shards.errors import DecodeError

Read = Callable[[int, int], bytes]

_MOST_CHUNKS = 1024  # before the samples; files have about ten
# sizes from here on are words for not knowing them, of 32 and of 64 bits
_STREAMED_BYTES, _STREAMED_LONG_BYTES = 0x7EFF0000, 1 << 62
_ASK_DS64 = 0xFFFFFFFF
_DS64 = Struct("<4sI8xQ")  # its head, the size of the file, that of the samples


@dataclass(frozen=True, slots=True)
class _Form:
    """How the chunks of a file lie.

    Attributes:
        head: of a chunk: name and size.
        samples: name of the chunk that holds them.
        first: where the first chunk begins.
        step: chunks begin at multiples of it.
        counted: bytes of the head that the size counts, too.
        streamed: sizes from here on are not known.
    """

    head: Struct
    samples: bytes = b"data"
    first: int = 12
    step: int = 2
    counted: int = 0
    streamed: int = _STREAMED_BYTES


_FORMS = {
    b"RIFF": _Form(Struct("<4sI")),
    b"RIFX": _Form(Struct(">4sI")),
    b"RF64": _Form(Struct("<4sI")),
    b"FORM": _Form(Struct(">4sI"), samples=b"SSND"),
    b"riff": _Form(
        Struct("<16sQ"),
        samples=b"data" + bytes.fromhex("f3acd3118cd100c04f8edb8a"),
        first=40,
        step=8,
        counted=24,
        streamed=_STREAMED_LONG_BYTES,
    ),
}


def require_whole(data: bytes | memoryview) -> None:
    """Refuse a WAV, RF64, RIFX, W64 or AIFF that ends within its samples.

    Decoders take what is there for all of it. Other files are not looked at.

    Raises:
        DecodeError: with what is declared; or if too many chunks come before the samples.
    """
    require_whole_file(lambda at, count: bytes(data[at : at + count]), len(data))


def require_whole_file(read: Read, size: int) -> None:
    """The same of a file that is not in memory.

    Args:
        read: from an offset on so many bytes, or as many as there are.
        size: bytes of the file.
    """
    if (form := _FORMS.get(read(0, 4))) is None:
        return
    start, long = form.first, None
    for _ in range(_MOST_CHUNKS):
        head = read(start, form.head.size)
        if len(head) < form.head.size:
            return  # a decoder tells that there are no samples
        name, told = form.head.unpack(head)
        if name == form.samples:
            _require_samples(form, start, told, long, size)
            return
        if name == b"ds64":
            long = _long(read(start, _DS64.size))
        stop = start + form.head.size + told - form.counted
        start = stop + -stop % form.step
    raise DecodeError(f"has no samples in its first {_MOST_CHUNKS} chunks")


def _require_samples(form: _Form, start: int, told: int, long: int | None, size: int) -> None:
    """Refuse a chunk of samples that ends behind the file.

    Args:
        long: its size, if a ``ds64`` told it.
    """
    streamed = form.streamed
    if told == _ASK_DS64 and long is not None:
        told, streamed = long, _STREAMED_LONG_BYTES
    stop = start + form.head.size + told - form.counted
    if size < stop and told < streamed:
        raise DecodeError(f"holds {size} bytes where its header declares {stop}")


def _long(chunk: bytes) -> int | None:
    """Bytes of the samples by a ``ds64``."""
    return int(_DS64.unpack(chunk)[2]) if len(chunk) == _DS64.size else None
