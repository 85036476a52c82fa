"""The README.md of a dataset: a Hugging Face dataset card, computed from manifests alone."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import yaml

from packer.audio import COPY
from packer.summary import pooled
from packer.target import Target
from shards.commands import plain
from shards.manifest import LabelStats, Manifest

NAME = "README.md"
_MARK = "<!-- written by python -m packer build; without this line it is left as it is -->"
_SPECIAL = re.compile(r"([\\`*_\[\]|<>&#~])")  # of Markdown
_PLAYED = ("flac", "wav", "ogg", "opus", "mp3")  # what datasets makes audio of
_FIELDS = {"audio": "the recording", "midi": "its MIDI", "notes": "a table of its notes"}
_FEATURES: dict[str, dict[str, Any]] = {
    # with audio as `audio`, datasets would need torchcodec to read even the bytes
    "flac": {"dtype": "binary"},
    "audio.npy": {"list": "int16"},
    "notes.npy": {"list": {"list": "float32"}},
    "json": {"dtype": "json"},  # ten digits of a number, but any value may be null
}


def put_card(target: Target, manifests: Mapping[str, Manifest]) -> None:
    """Write the card of a folder, unless it is there or somebody else wrote the README.md."""
    data = card(manifests).encode()
    if NAME in target.names() and (target.read(NAME) == data or not _is_ours(target)):
        return
    target.write(NAME, data)


def remove_card(target: Target) -> None:
    """Remove the card of a folder; a README.md of somebody else stays."""
    if NAME in target.names() and _is_ours(target):
        target.remove(NAME)


def _is_ours(target: Target) -> bool:
    return _MARK.encode() in target.read(NAME)


def put_cards(target: Target, manifests: Mapping[str, Manifest]) -> None:
    """Write the card of each dataset, and that of the folder above splits.

    Args:
        target: the folder of a dataset, whose name among the manifests is empty, or of splits.
    """
    for split, manifest in manifests.items():
        put_card(target.child(split) if split else target, {"": manifest})
    if "" not in manifests:
        put_card(target, manifests)


def card(manifests: Mapping[str, Manifest]) -> str:
    """A dataset card; equal manifests give equal text.

    Args:
        manifests: of a folder of splits by the name of each, in order; of a dataset without
            splits its own, under an empty name.
    """
    first = next(iter(manifests.values()))
    parts = [
        f"---\n{yaml.safe_dump(_head(manifests), sort_keys=False, allow_unicode=True)}---\n",
        f"{_MARK}\n",
        f"# {_text(first.name)}\n",
        *([f"{_text(first.description)}\n"] if first.description else []),
        _contents(manifests),
        _members(first),
        _labels([manifest.labels for manifest in manifests.values()]),
        _use(manifests, first),
    ]
    return "\n".join(part for part in parts if part)


def _head(manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """What Hugging Face reads of a card; its splits hold letters, digits and ``_``."""
    first = next(iter(manifests.values()))
    files = [
        {
            "split": split.replace("-", "_") or "train",
            "path": f"{split}/*.tar" if split else "*.tar",
        }
        for split in manifests
    ]
    total = sum(manifest.samples for manifest in manifests.values())
    return {
        "pretty_name": first.name,
        "tags": ["webdataset", *(name for name in first.fields if name != "notes"), "music"],
        **({"task_categories": ["audio-classification"]} if "audio" in first.fields else {}),
        "size_categories": [_size_category(total)],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"features": _features(first)},
    }


def _features(manifest: Manifest) -> list[dict[str, Any]]:
    """Columns named beforehand: guessed from the first samples, a null would be a type."""
    columns = ["json", *manifest.fields.values()]
    members = [{"name": name, **_FEATURES.get(name, {"dtype": "binary"})} for name in columns]
    return members + [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]


def _size_category(samples: int) -> str:
    names = ["1", "1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    power = max(2, len(str(samples)) - 1)  # 1,000 is the first of 1K<n<10K
    if power == 2:
        return "n<1K"
    return f"{names[power - 2]}<n<{names[power - 1]}" if power < 12 else "n>1T"


def _contents(manifests: Mapping[str, Manifest]) -> str:
    rows = [_amounts(_text(split) or "all", [m]) for split, m in manifests.items()]
    if len(manifests) > 1:
        rows.append(_amounts("all", manifests.values()))
    return _table(["split", "samples", "hours", "shards", "MB"], rows)


def _amounts(name: str, manifests: Collection[Manifest]) -> list[str]:
    return [
        name,
        f"{sum(m.samples for m in manifests):,}",
        f"{math.fsum(m.duration_s for m in manifests) / 3600:,.2f}",
        f"{sum(len(m.shards) for m in manifests):,}",
        f"{sum(m.bytes for m in manifests) / 1e6:,.1f}",
    ]


def _members(manifest: Manifest) -> str:
    rows = [
        [f"`KEY.{extension}`", _FIELDS.get(field, field)]
        for field, extension in manifest.fields.items()
    ]
    options = manifest.options
    if "audio" in manifest.fields and "sample_rate" in options and options["audio"] != COPY:
        channels = {1: "mono", 2: "stereo"}[options.get("channels", 1)]
        rows[0][1] += f", {channels}, {_text(str(options['sample_rate']))} Hz"
    rows.append(["`KEY.json`", "the annotation" + (", with `labels`" if manifest.labels else "")])
    return "Each sample is a run of members in a plain tar:\n\n" + _table(["member", ""], rows)


def _labels(splits: Collection[Mapping[str, LabelStats]]) -> str:
    names = dict.fromkeys(name for labels in splits for name in labels)
    rows = []
    for name in names:
        stats = pooled([labels[name] for labels in splits if name in labels])
        numbers = [f"{value:.4g}" for value in (stats.min, stats.mean, stats.max, stats.std)]
        rows.append([_text(name), f"{stats.count:,}", *numbers])
    heads = ["label", "samples", "minimum", "mean", "maximum", "deviation"]
    return "## Labels\n\n" + _table(heads, rows) if rows else ""


def _use(manifests: Mapping[str, Manifest], manifest: Manifest) -> str:
    split = next(iter(manifests))
    audio = manifest.fields.get("audio")
    cast = f'# rows = rows.cast_column("{audio}", datasets.Audio())  # to decode it\n'
    return f"""## Use

`FOLDER` is where this file lies: a folder, or a URL such as `hf://datasets/OWNER/NAME`.

```python
from loader import make_pipeline

pipe = make_pipeline("FOLDER{f"/{split}" if split else ""}", batch_size=16)
```

With Hugging Face `datasets` 4.7 or later, from a folder or a repository's `OWNER/NAME`:

```python
import datasets

rows = datasets.load_dataset("FOLDER", split="{split.replace("-", "_") or "train"}", streaming=True)
{cast if audio in _PLAYED else ""}```
"""


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _text(text: str) -> str:
    """Text as one line of Markdown, in which nothing is markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(plain(text).split()))
