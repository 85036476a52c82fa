"""A page to look at a dataset and listen to it: one file, or served while it is looked at."""

import hashlib
import html
import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Self

from tqdm import tqdm

from packer.lines import appearing
from packer.portrait import playable, portrait
from packer.splits import Dataset, open_splits
from packer.survey import Entry, Shards, evenly, overview, rejections, survey
from packer.target import Target
from shards.errors import DecodeError

SAMPLES = 40
PAGE_BYTES = 50 * 10**6
_SCRIPTS = ("dom.js", "source.js", "pictures.js", "page.js")
_PICTURE_BYTES = 80_000  # of a sample, about: its pictures and notes
_REMOTE_SHARDS = 4  # looked into where reading is slow


@dataclass(frozen=True, slots=True)
class Split:
    """A dataset that is looked at.

    Attributes:
        entries: its samples; of a remote dataset those of a few shards.
    """

    name: str
    dataset: Dataset
    shards: Shards
    entries: Sequence[Entry]

    def portrait(self, number: int) -> dict[str, Any]:
        """What a page shows of one of the entries but for its audio."""
        entry = self.entries[number]
        return portrait(entry.key, self.shards.read(entry))


class View:
    """Everything that is looked at: a dataset, or the splits of a folder."""

    def __init__(
        self,
        url: str,
        *,
        shards: int | None = None,
        storage_options: dict[str, Any] | None = None,
        progress: bool = True,
    ) -> None:
        """Read the JSON of all samples.

        Args:
            shards: how many to look into, evenly chosen; None is all of them on a disk of this
                machine, and a few elsewhere.
            storage_options: passed to fsspec.

        Raises:
            ValueError: if ``shards`` is not positive.
            DataError: if there is no dataset, or it is damaged.
        """
        if shards is not None and shards < 1:
            raise ValueError(f"shards must be at least 1, got {shards}")
        self._open = ExitStack()
        self.splits: list[Split] = []
        try:
            for name, dataset in open_splits(url, storage_options).items():
                opened = self._open.enter_context(Shards(dataset))
                most = shards or (None if dataset.target.on_disk else _REMOTE_SHARDS)
                entries = survey(dataset, opened, most=most, progress=progress)
                self.splits.append(Split(name, dataset, opened, entries))
            self._rejected = rejections(Target(url, storage_options))
        except BaseException:
            self.close()
            raise

    def about(self) -> dict[str, Any]:
        """What a page says of all splits, as JSON values."""
        splits = [
            overview(split.dataset, split.entries) | {"name": split.name} for split in self.splits
        ]
        return {"splits": splits, "rejected": self._rejected}

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def write_page(
    url: str,
    out: Path,
    *,
    samples: int = SAMPLES,
    shards: int | None = None,
    storage_options: dict[str, Any] | None = None,
    progress: bool = True,
) -> int:
    """Write a page that needs nothing but itself; how many samples it shows.

    Args:
        samples: at most, of all splits together, evenly chosen. It shows fewer where it would
            outgrow 50 MB.
        shards: as for ``View``.

    Raises:
        ValueError: if ``samples`` or ``shards`` is not positive, or ``out`` is a folder.
        OSError: if ``out`` cannot be written; nothing is read then.
        DataError: if there is no dataset, or it is damaged.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if out.is_dir():
        raise ValueError(f"{out}: is a folder; name the file, such as {out / 'page.html'}")
    with (
        appearing(out) as partial,
        partial.open("w", encoding="utf-8") as file,  # or all would be read in vain
        View(url, shards=shards, storage_options=storage_options, progress=progress) as view,
    ):
        chosen, full = _choose([split.entries for split in view.splits], samples)
        about = view.about() | {"lists": [], "full": full}
        for split, numbers in zip(view.splits, chosen, strict=True):
            about["lists"].append([listed(split.entries[n], n) for n in numbers])
        total = sum(map(len, chosen))
        bar = tqdm(total=total, desc="drawing", disable=not progress, leave=False)
        with bar:
            for part in page(about, _embedded(view, chosen, bar)):
                file.write(part)
    return total


def page(about: Mapping[str, Any], samples: Iterator[str]) -> Iterator[str]:
    """The parts of a page.

    Args:
        about: what it shows at once.
        samples: script elements with what it shows of each sample.
    """
    style, script = _read("page.css"), "".join(_read(name) for name in _SCRIPTS)
    script = f'"use strict";(() => {{\n{script}}})();'
    title = about["splits"][0]["title"] or "dataset"
    before, _, after = _read("page.html").partition("$samples")
    values = {
        "style": style,
        "style_hash": _csp_hash(style),
        "script": script,
        "script_hash": _csp_hash(script),
        "title": html.escape(title),
        "data": to_json(about),
    }
    yield Template(before).substitute(values)
    yield from samples
    yield Template(after).substitute(values)


def _read(name: str) -> str:
    return (files("packer") / "page" / name).read_text("utf-8")


def to_json(value: Any) -> str:
    """JSON that may stand within a script element, whatever text it holds."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def listed(entry: Entry, number: int) -> dict[str, Any]:
    """An entry as the list of a page has it."""
    return {"number": number, "key": entry.key, "seconds": entry.seconds, "text": entry.text}


def _choose(entries: Sequence[Sequence[Entry]], samples: int) -> tuple[list[Sequence[int]], bool]:
    """Numbers of the entries of each split to show, and whether a page cannot hold more.

    They are evenly spaced, with at least one of each split.
    """
    total, asked = sum(map(len, entries)), samples
    while True:
        counts = [max(1, samples * len(split) // max(total, 1)) for split in entries]
        chosen = [
            evenly(range(len(split)), count) for split, count in zip(entries, counts, strict=True)
        ]
        weight = sum(
            _weight(split[number])
            for split, numbers in zip(entries, chosen, strict=True)
            for number in numbers
        )
        if weight <= PAGE_BYTES or samples == 1:
            return chosen, samples < asked
        samples = max(1, min(samples - 1, samples * PAGE_BYTES // weight))


def _weight(entry: Entry) -> int:
    """Bytes that a sample takes in a page, about; audio that alone would fill it stays out."""
    return _PICTURE_BYTES + (entry.audio_bytes * 4 // 3 if _fits(entry) else 0)


def _fits(entry: Entry) -> bool:
    return entry.audio_bytes * 4 // 3 < PAGE_BYTES // 2


def _embedded(view: View, chosen: Sequence[Sequence[int]], bar: "tqdm[Any]") -> Iterator[str]:
    """A script element for each chosen sample."""
    for place, (split, numbers) in enumerate(zip(view.splits, chosen, strict=True)):
        for number in numbers:
            shown = split.portrait(number) | _audio(split, split.entries[number])
            data = to_json(shown)
            yield f'<script type="application/json" id="sample-{place}-{number}">{data}</script>\n'
            bar.update()


def _audio(split: Split, entry: Entry) -> dict[str, Any]:
    """The audio of a sample as it is embedded; none where it is too large or damaged."""
    if not _fits(entry):
        return {"silent": f"{entry.audio_bytes / 1e6:.0f} MB of audio are too much for a page"}
    try:
        found = playable(split.shards.read(entry))
    except DecodeError as error:
        return {"silent": str(error)}
    if found is None:
        return {}
    return {"audio": b64encode(found[0]).decode(), "type": found[1]}


def _csp_hash(content: str) -> str:
    """What a Content-Security-Policy calls a script or style of this content."""
    return f"sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
