"""Files in a folder and a torch Dataset: PyTorch's own tutorial on datasets and loaders."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from benchmarks.peers.decoders import Decode, Sample, arrays
from benchmarks.peers.setting import DECODED, UP_TO_CORES, Clip, Setting
from benchmarks.peers.torch_loaders import MapLoader

PACKAGES = ("torch",)
WORKERS = UP_TO_CORES
ANNOTATIONS = "annotations.json"
RESUMES = "torchdata's StatefulDataLoader"


def prepare(clips: Iterator[Clip], folder: Path, kind: str) -> None:
    """Audio and MIDI are files of their own; annotations are one file, read at the start."""
    annotations = {}
    for clip in clips:
        annotations[clip.key] = json.loads(clip.record)
        if kind == DECODED:
            np.save(folder / f"{clip.key}.audio.npy", clip.audio)
            np.save(folder / f"{clip.key}.tokens.npy", clip.tokens)
            np.save(folder / f"{clip.key}.labels.npy", clip.labels)
        else:
            (folder / f"{clip.key}.flac").write_bytes(clip.flac)
            (folder / f"{clip.key}.mid").write_bytes(clip.midi)
    (folder / ANNOTATIONS).write_text(json.dumps(annotations))


def open_loader(setting: Setting) -> MapLoader:
    return MapLoader(Files(setting), setting)


class Files(Dataset):
    """Samples by number."""

    def __init__(self, setting: Setting) -> None:
        self.folder, self.kind = setting.folder, setting.kind
        self.decode = Decode(setting.decoders)
        self.annotations = json.loads((setting.folder / ANNOTATIONS).read_text())
        self.keys = sorted(self.annotations)

    def copy(self, name: str, target: Path) -> None:
        """Copy one file, as a script that copies everything does."""
        shutil.copy(self.folder / name, target)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> Sample:
        key = self.keys[number]
        stem = f"{self.folder}/{key}"
        if self.kind == DECODED:
            loaded = (np.load(f"{stem}.{name}.npy") for name in ("audio", "tokens", "labels"))
            return arrays(key, *loaded)
        midi = Path(f"{stem}.mid").read_bytes()
        return self.decode.files(key, f"{stem}.flac", midi, self.annotations[key])
