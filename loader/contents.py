"""What datasets hold, and which fields and labels of it are asked for."""

import logging
from collections.abc import Sequence

import numpy as np

from loader.example import Scratch, read_example
from loader.recipe import FIELDS, Recipe, audio_extension, midi_extension
from loader.relabel import LabelTable
from loader.source import Source
from loader.store import ShardStore
from shards.hints import hint_at_labels, hint_at_members

log = logging.getLogger(__name__)

_MOST_LOOKS = 16  # of a source: a look may fetch a shard


def contents(
    sources: Sequence[Source], store: ShardStore, relabels: LabelTable | None
) -> tuple[set[str], list[str]]:
    """Fields that all datasets have, but labels, which one may lack; the names of all labels."""
    present = {"audio", "midi", "json"}
    names: dict[str, None] = {}
    first = 0
    for source in sources:
        fields, labels = _source_contents(source, store, first)
        present &= fields
        names |= dict.fromkeys(labels)
        first += len(source.shards)
    if relabels is not None:
        names |= dict.fromkeys(relabels.label_names)
    return present | ({"labels"} if names else set()), list(names)


def choose_fields(asked: Sequence[str] | None, present: set[str]) -> tuple[str, ...]:
    """Those asked for, or all but the JSON; raise ValueError if one is not there."""
    if asked is None:
        chosen = tuple(name for name in ("audio", "midi", "labels") if name in present)
        if not chosen:
            raise ValueError(
                "the dataset has neither audio, MIDI nor labels; what a member is, all behind the "
                "first dot of its name tells, as in KEY.flac, KEY.mid and KEY.json"
            )
        return chosen
    if isinstance(asked, str):
        raise ValueError(f"fields must be a list of names, got {asked!r}")
    if missing := [name for name in asked if name in FIELDS and name not in present]:
        raise ValueError(f"the dataset has no {missing[0]!r}; it has {sorted(present)}")
    return tuple(dict.fromkeys(asked))


def choose_dimensions(asked: Sequence[str] | None, names: Sequence[str]) -> tuple[str, ...]:
    """Labels asked for, or all; raise ValueError if one is not there."""
    if asked is None:
        return tuple(names)
    if isinstance(asked, str):
        raise ValueError(f"dimensions must be a list of names, got {asked!r}")
    if unknown := [name for name in asked if name not in names]:
        raise ValueError(f"the dataset has no label {unknown[0]!r}; it has {list(names)}")
    return tuple(asked)


def _source_contents(source: Source, store: ShardStore, first: int) -> tuple[set[str], list[str]]:
    """Fields that all parts of a source have, and the names of the labels of any.

    A part is what one manifest tells of, or else one URL of a list: the first sample of its tars
    is looked at. Of more than ``_MOST_LOOKS`` such URLs, only one of each folder is, and of more
    folders the first so many.
    """
    if source.is_foreign and not source.rows.any():
        raise ValueError(f"{source.name}: there is no sample in its {len(source.shards)} shards")
    urls = {folder.asked for folder in source.shards.folders if folder.is_foreign}
    fields, names = {"audio", "midi", "json"}, dict[str, None]()
    looked: set[str] = set()
    for folder, run in source.shards.runs():
        if folder.manifest is not None and not folder.is_foreign:
            own, labels = {"json", *folder.manifest.fields}, list(folder.manifest.labels)
        else:
            part = folder.asked if len(urls) <= _MOST_LOOKS else folder.prefix
            if part in looked or len(looked) == _MOST_LOOKS or not source.rows[run].any():
                continue
            looked.add(part)
            place = run.start + int(np.argmax(source.rows[run] > 0))
            own, labels = _look(folder.asked, store, first + place)
        fields &= own
        names |= dict.fromkeys(labels)
    return fields, list(names)


def _look(url: str, store: ShardStore, number: int) -> tuple[set[str], list[str]]:
    """Fields and label names of the first sample of a shard, and a warning of what is not read."""
    with store.reader(number) as reader:
        members = {member.extension: member for member in reader.members(0)}
        example = read_example(reader, 0, Recipe(("json",), ()), Scratch())
    for hint in (hint_at_members(example.key, members), hint_at_labels(example.meta.record)):
        if hint:
            log.warning("%s: sample %r: %s", url, example.key, hint)
    found = {
        "audio": audio_extension(members) is not None,
        "midi": midi_extension(members) is not None,
        "json": "json" in members,
    }
    return {name for name, there in found.items() if there}, list(example.meta.labels)
