"""Whether the events of a MIDI track are ones, before a decoder in C++ believes it."""

import re

from shards.errors import DecodeError

_DELTA = rb"[\x80-\xff]{0,3}+[\x00-\x7f]"  # time to the next event: at most four bytes
# by kind of event: the status bytes, and what follows them. One that is left out is the last one's.
_KINDS = {
    "notes": (rb"[\x80-\xbf\xe0-\xef]", rb"[\x00-\x7f]{2}"),  # and controllers, bends
    "programs": (rb"[\xc0-\xdf]", rb"[\x00-\x7f]"),  # and pressure of a channel
}
_FIRST = re.compile(
    _DELTA
    + b"(?:"
    + b"|".join(b"(?P<%b>%b%b)" % (name.encode(), *kind) for name, kind in _KINDS.items())
    + b")"
)
# Not ``*+``: before Python 3.11.5 a possessive group that fails half-way keeps what it took. And
# bounded, for what a greedy one may have to give back takes memory.
_MORE = {
    name: re.compile(b"(?:%b%b?+%b){0,1000}" % (_DELTA, *kind)) for name, kind in _KINDS.items()
}
_AT = re.compile(_DELTA)
_LENGTH = re.compile(rb"([\x80-\xff]{0,3}+)([\x00-\x7f])")
_META, _END_OF_TRACK = 0xFF, 0x2F
_SYSEX = (0xF0, 0xF7)


def require_events(data: bytes, start: int, stop: int) -> None:
    """Refuse a track in which an event is none, or is cut off.

    Runs of events of channels are matched at once; meta events and system exclusive ones, which
    are few, are stepped over by their length. Running status goes on behind those, as decoders
    have it.

    Args:
        data: content of a MIDI file.
        start, stop: where the track's events lie in it.

    Raises:
        DecodeError: naming the byte.
    """
    running, at = "", start
    while at < stop:
        while running and (found := _MORE[running].match(data, at, stop)) and found.end() > at:
            at = found.end()
        if (found := _FIRST.match(data, at, stop)) is not None:
            running, at = found.lastgroup or "", found.end()
        elif at < stop:
            at, ended = _step_over(data, at, stop)
            if ended:
                return


def _step_over(data: bytes, start: int, stop: int) -> tuple[int, bool]:
    """Where the event after a meta event or system exclusive one begins; whether it is the end."""
    time = _AT.match(data, start, stop)
    at = stop if time is None else time.end()
    kind = data[at] if at < stop else None
    head = at + 1 + (kind == _META)
    length = _LENGTH.match(data, head, stop)
    if length is None or kind not in (_META, *_SYSEX):
        raise DecodeError(f"not a readable MIDI file: no event at byte {start}")
    size = 0
    for byte in length[1] + length[2]:
        size = size << 7 | byte & 0x7F
    end = length.end() + size
    if end > stop:
        raise DecodeError(f"not a readable MIDI file: the event at byte {start} is cut off")
    return end, kind == _META and data[at + 1] == _END_OF_TRACK
