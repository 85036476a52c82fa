"""What can be wrong with an annotation: kinds that are counted, each with its remedy."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """A kind of fault, in words."""

    JSON = "not a JSON object"
    RESERVED = "field of the packer's"
    NO_PATH = "no path"
    TIME = "no time"
    LABEL = "no label"
    LABEL_RANGE = "label out of range"
    KEY = "no key"
    DUPLICATE_KEY = "key twice"
    KNOWN_KEY = "key in the dataset"
    UNKNOWN_KEY = "key unknown"
    MIXED_TYPES = "field of two types"
    NEW_FIELD = "field that the dataset lacks"
    UNPAIRED = "file without its pair"
    NO_AUDIO = "no audio among audio"
    MISSING_AUDIO = "audio missing"
    UNREADABLE_AUDIO = "audio unreadable"
    DUPLICATE_AUDIO = "audio twice"
    OUTSIDE = "segment outside the recording"
    SHORT = "recording too short"
    MISSING_MIDI = "MIDI missing"
    UNREADABLE_MIDI = "MIDI unreadable"
    SILENT_MIDI = "MIDI without notes"
    LENGTHS = "audio and MIDI of different length"
    NOT_COPYABLE = "cannot be copied"
    UNENCODABLE = "cannot be encoded"


REMEDIES = {
    Kind.JSON: "write one JSON object a line, as json.dumps does",
    Kind.RESERVED: "give the field another name",
    Kind.NO_PATH: "give audio_path, midi_path or both as text",
    Kind.TIME: "give seconds, end_time after start_time, or leave both out for the whole recording",
    Kind.LABEL: "give a finite number, or null where a rating is missing",
    Kind.LABEL_RANGE: "correct the rating, or widen --label-range",
    Kind.KEY: "use letters, digits, '-' and '_', or leave the key out to have one made",
    Kind.DUPLICATE_KEY: "remove one of the lines, or give each its own key",
    Kind.KNOWN_KEY: "remove lines that were packed before; give another recording its own key",
    Kind.UNKNOWN_KEY: "compare with the keys in the dataset's JSON members",
    Kind.MIXED_TYPES: "write the field in one type on all lines",
    Kind.NEW_FIELD: "remove the field, or build the dataset anew with all annotations",
    Kind.UNPAIRED: "name audio and MIDI alike, or write annotations that pair them",
    Kind.NO_AUDIO: "render it with 'python -m packer render', or pack all lines with --only midi",
    Kind.MISSING_AUDIO: "check --root; --rewrite OLD=NEW replaces a prefix of paths",
    Kind.UNREADABLE_AUDIO: "copy or convert the file anew",
    Kind.DUPLICATE_AUDIO: "remove one of the lines: a model would be tested on what it was taught",
    Kind.OUTSIDE: "correct start_time and end_time, or take whole recordings with --whole",
    Kind.SHORT: "choose shorter segments, or remove the line",
    Kind.MISSING_MIDI: "check --root; --rewrite OLD=NEW replaces a prefix of paths",
    Kind.UNREADABLE_MIDI: "export the file anew",
    Kind.SILENT_MIDI: "choose another segment, or remove midi_path from the line",
    Kind.LENGTHS: "check that the files belong together, or allow more with --tolerance",
    Kind.NOT_COPYABLE: "choose a codec with --audio, or pack whole recordings of one format alone",
    Kind.UNENCODABLE: "copy the file anew",
}
FATAL = frozenset(
    {Kind.MIXED_TYPES, Kind.NEW_FIELD}
)  # no share of the annotations may be left out for these


class FaultError(ValueError):
    """Why an annotation cannot be packed."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Rejection:
    """An annotation that cannot be packed: which line, why, what it said, and the kind of fault."""

    line: int
    reason: str
    record: Any
    kind: Kind = Kind.UNENCODABLE

    @property
    def remedy(self) -> str:
        return REMEDIES[self.kind]
