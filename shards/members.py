"""Which members of a sample are its audio and its MIDI, in tars of anybody."""

from collections.abc import Collection

# what comes first is taken, as in loading: decoded before compressed
AUDIO = ("audio.npy", "flac", "wav", "mp3", "ogg", "opus", "aif", "aiff", "m4a", "aac")
MIDI = ("mid", "midi", "notes.npy")
_KINDS = {"audio": AUDIO, "midi": MIDI}


def fields_of(extensions: Collection[str]) -> dict[str, str]:
    """The extension of each modality that a sample has, such as ``{"audio": "flac"}``."""
    return {
        field: next(extension for extension in kind if extension in extensions)
        for field, kind in _KINDS.items()
        if not set(kind).isdisjoint(extensions)
    }
