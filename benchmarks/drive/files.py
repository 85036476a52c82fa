"""Files behind a URL as a torch Dataset: what file by file is where FUSE is missing."""

import json
from pathlib import Path

import fsspec
from torch.utils.data import Dataset

from benchmarks.peers.decoders import Decode, Sample
from benchmarks.peers.setting import USERS
from benchmarks.peers.wiring.files import ANNOTATIONS


class FilesByUrl(Dataset):
    """Samples by number, each of two files."""

    def __init__(self, url: str) -> None:
        self.files, self.root = fsspec.core.url_to_fs(url)
        self.annotations = json.loads(self._read(ANNOTATIONS))
        self.keys = sorted(self.annotations)
        self.decode = Decode(USERS)

    def copy(self, name: str, target: Path) -> None:
        (target / name).write_bytes(self._read(name))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> Sample:
        key = self.keys[number]
        flac, midi = self._read(f"{key}.flac"), self._read(f"{key}.mid")
        return self.decode.files(key, flac, midi, self.annotations[key])

    def _read(self, name: str) -> bytes:
        data: bytes = self.files.cat_file(f"{self.root}/{name}")
        return data
