"""What the writer of a tar may have meant by what is not read: hints, in words."""

from collections.abc import Collection, Mapping
from typing import Any

from shards.members import AUDIO, MIDI, fields_of
from shards.records import COMPUTED
from shards.values import labels, number

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")  # ends of names
UNPACK = "unpack it to a .tar first, as gunzip does"
_NO_RATINGS = {*COMPUTED, "start_time", "end_time"}
_SHOWN = 5  # names that a message lists


def listed(names: Collection[str]) -> str:
    """Some of many names, and how many more there are."""
    first = list(names)[:_SHOWN]
    more = [f"... and {len(names) - len(first)} more"] if len(names) > len(first) else []
    return ", ".join([*first, *more]) or "none"


def hint_at_members(key: str, extensions: Collection[str]) -> str | None:
    """Why a sample has no audio or no MIDI, or neither; None if there is nothing to say.

    ``take.020.flac`` is a member of the sample ``take``, and of an extension that nobody reads.
    """
    found = fields_of(extensions)
    for field, kind in (("audio", AUDIO), ("midi", MIDI)):
        lost = [one for one in extensions if field not in found and one.rpartition(".")[2] in kind]
        if not lost:
            continue
        middle, _, last = lost[0].rpartition(".")
        better = f"{key}.{last}" if len(lost) == 1 else f"{key}-{middle.replace('.', '-')}.{last}"
        return (
            f"{key}.{lost[0]} is not read as {field}: a key ends at the first dot of a name, and "
            f"all behind it is the extension; name it {better}"
        )
    if found or "json" in extensions:
        return None
    return f"{key} has neither audio nor MIDI; its members: {listed(extensions)}"


def hint_at_labels(record: Mapping[str, Any]) -> str | None:
    """Why a sample whose JSON seems to hold ratings has no labels; None if it does not seem so."""
    own = record.get("labels")
    if isinstance(own, dict):
        if not own or labels(own):
            return None
        return f"none of 'labels' in its JSON is a number: {listed(own)}"
    if own is not None:
        kind = "a list" if isinstance(own, list) else repr(own)[:100]
        return f"'labels' in its JSON is {kind}; an object of names and numbers is expected"
    names = [name for name, value in record.items() if number(value) is not None]
    if not (names := [name for name in names if name not in _NO_RATINGS]):
        return None
    return (
        f"its JSON has no 'labels', but numbers: {listed(names)}; ratings are read from "
        "an object of names and numbers called 'labels'"
    )
