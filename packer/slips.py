"""Fields of annotations whose names are nearly those that the packer reads."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

_READ = ("audio_path", "midi_path", "labels", "start_time", "end_time")
_NEAR = 0.8  # of 1, which is the same name


def slips(names: Iterable[str]) -> Iterator[str]:
    """In words, each name that looks like a slip of the pen."""
    for name in names:
        near = get_close_matches(name.lower(), _READ, 1, _NEAR)
        if near and name not in _READ:
            yield f"{name!r} is kept as a field of the user's and not read: is {near[0]!r} meant?"
