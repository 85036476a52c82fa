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


def _source_contents(
    source: Source, store: ShardStore, first: int
) -> tuple[set[str], Sequence[str]]:
    """Fields and label names of a source, as its manifest or else its first sample says."""
    if not source.is_foreign:
        fields = set.intersection(*(set(manifest.fields) for manifest in source.manifests))
        return fields | ({"labels"} if source.label_names else set()) | {"json"}, source.label_names
    if not source.rows.any():
        raise ValueError(f"{source.name}: there is no sample in its {len(source.shards)} shards")
    with store.reader(first + int(np.argmax(source.rows > 0))) as reader:
        members = {member.extension: member for member in reader.members(0)}
        example = read_example(reader, 0, Recipe(("json",), ()), Scratch())
    labels = list(example.meta.labels)
    for hint in (hint_at_members(example.key, members), hint_at_labels(example.meta.record)):
        if hint:
            log.warning("%s: sample %r: %s", source.name, example.key, hint)
    found = {
        "audio": audio_extension(members) is not None,
        "midi": midi_extension(members) is not None,
        "labels": bool(labels),
        "json": "json" in members,
    }
    return {name for name, there in found.items() if there}, labels
