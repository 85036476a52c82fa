"""Keeps shards decoded in the cache: small on the wire, fast on the disk."""

import json
import logging
import math
import os
import queue
import threading
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np

from loader.audio import decode_whole
from loader.cache import ShardCache
from loader.disk import measure, write_whole
from loader.machine import free_memory
from loader.mend import MendedError
from loader.meta import Meta, parse_meta
from loader.opened import digest_path
from loader.patience import PATIENCE
from loader.recipe import audio_extension
from loader.source import Source
from loader.stop import StoppedError
from loader.store import ShardStore
from loader.tokens import octuple
from loader.transfer import part_path
from shards.errors import CacheError, DataError, DecodeError
from shards.index import index_bytes
from shards.notes import read_notes
from shards.npy import npy_bytes
from shards.reader import ShardReader
from shards.tar import END_OF_ARCHIVE, sample_bytes
from shards.units import in_words

log = logging.getLogger(__name__)

FORMAT_VERSION = 2
_DAMAGED = "damaged.npy"
_POLL_S = 0.1
_NICE = 10
_DECODED_BYTES_PER_S = 400e6  # what a core decodes FLAC to, in bytes of int16
_DECODED_PER_RAW = 4 / 24000  # ten seconds of 24 kHz FLAC, 126 kB, are 480 kB of int16


def folder_suffix(sample_rate: int) -> str:
    """Behind a dataset's folder name: decoded shards of other rates or formats are others."""
    return f"-decoded-{sample_rate}hz-v{FORMAT_VERSION}"


def decoded_bytes(source: Source, sample_rate: int) -> int:
    """About how much the shards of a source take once they are decoded."""
    seconds = sum(manifest.duration_s for manifest in source.manifests)
    samples = sum(manifest.samples for manifest in source.manifests)
    if not seconds or not samples:
        return round(int(source.shards.sizes.sum()) * sample_rate * _DECODED_PER_RAW)
    share = int(source.shards.nsamples.sum()) / samples
    return round(2 * sample_rate * seconds * share)


def worth_keeping(size_bytes: int, cache: ShardCache, *, raw_bytes: int) -> bool:
    """Whether decoded shards of this size find room, and are read faster than decoded again.

    What fits into free memory is; what does not has to come from a disk that is fast enough.

    Args:
        raw_bytes: what lies in the cache beside them.
    """
    if size_bytes + raw_bytes > cache.limit_bytes:
        log.warning(
            'cache="decoded": %s of decoded audio beside %s of shards are more than the '
            "%s that the cache may have: shards are kept as they come; raise cache_bytes",
            *map(in_words, (size_bytes, raw_bytes, cache.limit_bytes)),
        )
        return False
    if size_bytes <= free_memory():
        return True
    rate = measure(cache.folder).read
    if rate >= _DECODED_BYTES_PER_S:
        return True
    log.warning(
        'cache="decoded": %s of decoded audio do not fit into memory, and %s reads %.0f MB/s, '
        "slower than decoding: shards are kept as they come",
        *(in_words(size_bytes), cache.folder, rate / 1e6),
    )
    return False


class DecodedKeeper:
    """A thread that decodes the shards that were opened raw, and puts them into the cache.

    It runs at low priority, so that the batches in hand come first.
    """

    def __init__(self, store: ShardStore, *, sample_rate: int) -> None:
        self._store, self._sample_rate = store, sample_rate
        self._stop, self._keeping = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="loader-decoded", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a shard is being decoded, or is to be."""
        return self._keeping or not self._store.undecoded.empty()

    def stop(self) -> None:
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        with suppress(OSError):  # a system without priorities of threads
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        # opening a shard asks for its copy: one that failed is left alone until then, or for ever
        failed: dict[int, float] = {}
        while not self._stop.is_set():
            try:
                number = self._store.undecoded.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if time.monotonic() < failed.get(number, 0.0):
                continue
            self._keeping = True
            try:
                self._keep(number)
            except (StoppedError, InterruptedError):
                return
            except MendedError:
                self._store.undecoded.put(number)
            except (DataError, OSError, ValueError) as error:
                passes = isinstance(error, CacheError | OSError)  # such as a full disk
                failed[number] = time.monotonic() + PATIENCE.lapse_s if passes else math.inf
                log.warning("shard %d is not kept decoded: %s", number, error)
            finally:
                self._keeping = False

    def _keep(self, number: int) -> None:
        """Decode one shard into the cache, unless another process has."""
        with self._store.reader(number) as reader:
            # damage that decodes would get a digest of its own
            if not self._store.is_sound(number, reader) and self._store.mend(number, reader):
                raise MendedError
            size = sum(_decoded_bytes(reader, row, self._sample_rate) for row in range(len(reader)))

            def make(path: Path) -> None:
                self._write(number, reader, path, size)

            self._store.keep_decoded(number, make, need_bytes=size)

    def _write(self, number: int, reader: ShardReader, path: Path, size: int) -> None:
        """The tar and its index; both appear by rename, the tar last.

        Raises:
            MendedError: if what does not decode was damaged in the cache, and comes anew.
        """
        part, offsets = part_path(path, size), [0]
        try:
            digest = sha256()
            with part.open("wb") as tar:
                for row in range(len(reader)):
                    if self._stop.is_set():
                        raise StoppedError
                    key = reader.members(row)[0].key
                    stored = reader.read(row)
                    members = decode_members(stored, sample_rate=self._sample_rate)
                    undecodable = audio_extension(stored) and "audio.npy" not in members
                    if undecodable and self._store.mend(number, reader):
                        raise MendedError
                    blocks = sample_bytes(key, members)
                    digest.update(blocks)
                    tar.write(blocks)
                    offsets.append(tar.tell())
                digest.update(END_OF_ARCHIVE)
                tar.write(END_OF_ARCHIVE)
                tar.flush()
                os.fsync(tar.fileno())
                if not os.path.samestat(part.stat(), os.fstat(tar.fileno())):
                    raise FileNotFoundError(f"{path.parent}: was deleted meanwhile")
            write_whole(path.with_name(f"{path.name}.idx"), index_bytes(offsets))
            write_whole(digest_path(path), digest.hexdigest().encode())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def decode_members(members: dict[str, bytes], *, sample_rate: int) -> dict[str, bytes]:
    """The members of a sample with its audio as int16 and its notes as a table.

    A member that does not decode stays as it is: reading it meets the same trouble and names it.
    """
    extension = audio_extension(members)
    try:
        meta = parse_meta(members.get("json"))
        decoded = _audio(members, extension, meta, sample_rate) if extension else {}
    except DecodeError:
        # under its own name it would pass for samples that were decoded here
        return {_DAMAGED if name == "audio.npy" else name: data for name, data in members.items()}
    if "mid" in members:
        decoded |= {"mid": members["mid"]} | _notes(members["mid"], meta.midi_beat)
    return {**decoded, **{n: d for n, d in members.items() if n not in (*decoded, extension)}}


def _audio(
    members: dict[str, bytes], extension: str, meta: Meta, sample_rate: int
) -> dict[str, bytes]:
    """The audio as int16, and the JSON, which says its rate."""
    audio = decode_whole(
        members[extension],
        extension,
        sample_rate=sample_rate,
        at_least=meta.audio_s,
        stored_rate=meta.sample_rate,
    )
    decoded = {"audio.npy": npy_bytes(audio)}
    if "json" in members and meta.sample_rate != sample_rate:
        record = {**meta.record, "sample_rate": sample_rate, "frames": len(audio)}
        return decoded | {"json": json.dumps(record, ensure_ascii=False).encode()}
    return decoded | ({"json": members["json"]} if "json" in members else {})


def _notes(midi: bytes, beat: float) -> dict[str, bytes]:
    """The note table, unless 32 bits are too few for it to give the very same tokens."""
    try:
        exact = read_notes(midi, beat=beat).table
    except DecodeError:
        return {}
    table = exact.astype(np.float32)
    same = np.array_equal(octuple(exact), octuple(table.astype(np.float64)))
    return {"notes.npy": npy_bytes(table)} if same else {}


def _decoded_bytes(reader: ShardReader, row: int, sample_rate: int) -> int:
    """About how much a sample takes once it is decoded."""
    members = {member.extension: member for member in reader.members(row)}
    raw = sum(member.size for member in members.values())
    found = members.get("json")
    try:
        meta = parse_meta(None if found is None else reader.read_at(found.start, found.size))
    except DecodeError:
        return raw
    return raw + round(2 * sample_rate * meta.audio_s) + 4096 if meta.audio_s else 8 * raw
