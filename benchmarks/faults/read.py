"""Writes and reads one small dataset with one library; run by run.py, in the venv of that library.

    python read.py LIBRARY write FOLDER
    python read.py LIBRARY read URL CACHE

A sample is 8,000 numbers made of its own, so that whoever reads it can tell whether it is right.
The last line of what is printed is JSON.
"""

import json
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

SAMPLES, FRAMES, SHARD_SAMPLES = 240, 8000, 30
RATE = 8000


def content(index: int) -> np.ndarray:
    """(8000,) int16: what sample ``index`` holds, its number first."""
    numbers = np.random.default_rng(index).integers(-30000, 30000, FRAMES).astype(np.int16)
    numbers[0] = index
    return numbers


def npy(index: int) -> bytes:
    target = BytesIO()
    np.save(target, content(index))
    return target.getvalue()


def item(index: int) -> dict[str, bytes]:
    """What litdata writes; at the top of the module for its processes."""
    return {"x": content(index).tobytes()}


def write_webdataset(folder: Path) -> None:
    import webdataset

    with webdataset.ShardWriter(f"file:{folder}/%06d.tar", maxcount=SHARD_SAMPLES) as sink:
        for index in range(SAMPLES):
            sink.write({"__key__": f"{index:06d}", "audio.npy": npy(index)})


def read_webdataset(url: str, cache: str) -> Iterator[np.ndarray]:
    import webdataset

    urls = f"{url}/{{000000..{SAMPLES // SHARD_SAMPLES - 1:06d}}}.tar"
    for sample in webdataset.WebDataset(urls, shardshuffle=False, cache_dir=cache):
        yield np.load(BytesIO(sample["audio.npy"]))


def write_clavier(folder: Path) -> None:
    from packer.__main__ import main as packer
    from shards.tar import END_OF_ARCHIVE, sample_bytes

    for first in range(0, SAMPLES, SHARD_SAMPLES):
        rows = range(first, first + SHARD_SAMPLES)
        blocks = [sample_bytes(f"{n:06d}", {"audio.npy": npy(n)}) for n in rows]
        (folder / f"{first // SHARD_SAMPLES:06d}.tar").write_bytes(
            b"".join(blocks) + END_OF_ARCHIVE
        )
    packer(["index", str(folder)])


def read_clavier(url: str, cache: str) -> Iterator[np.ndarray]:
    from loader import make_pipeline

    with make_pipeline(
        url,
        cache_dir=cache,
        cache_bytes=10**9,
        cache_mount=True,
        batch_size=1,
        shuffle=0,
        sample_rate=RATE,
        clip_seconds=FRAMES / RATE,
        audio_dtype="int16",
    ) as pipe:
        for batch in pipe:
            yield batch["audio"][0].numpy()


def write_streaming(folder: Path) -> None:
    streaming = import_streaming()
    size = SHARD_SAMPLES * (2 * FRAMES + 100)
    with streaming.MDSWriter(
        out=str(folder), columns={"x": "bytes"}, hashes=["sha1"], size_limit=size
    ) as sink:
        for index in range(SAMPLES):
            sink.write(item(index))


def read_streaming(url: str, cache: str) -> Iterator[np.ndarray]:
    streaming = import_streaming()
    streaming.base.util.clean_stale_shared_memory()
    for sample in streaming.StreamingDataset(remote=url, local=cache, batch_size=1, shuffle=False):
        yield np.frombuffer(sample["x"], np.int16)


def import_streaming() -> Any:
    """mosaicml-streaming; for its vision datasets, which are not used, torchvision is stood in."""
    for name, attribute in (
        ("torchvision", None),
        ("torchvision.datasets", "VisionDataset"),
        ("torchvision.transforms", None),
        ("torchvision.transforms.functional", "to_tensor"),
    ):
        module = sys.modules[name] = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        if attribute:
            setattr(module, attribute, type(attribute, (), {}))
    import streaming
    import streaming.base.util

    return streaming


def write_litdata(folder: Path) -> None:
    import litdata

    litdata.optimize(
        fn=item,
        inputs=list(range(SAMPLES)),
        output_dir=str(folder),
        chunk_size=SHARD_SAMPLES,
        num_workers=1,
        start_method="fork",
    )


def read_litdata(url: str, cache: str) -> Iterator[np.ndarray]:
    import litdata

    source = litdata.streaming.resolver.Dir(path=cache, url=f"local:{url}")
    for sample in litdata.StreamingDataset(source, shuffle=False):
        yield np.frombuffer(sample["x"], np.int16)


PACKAGES = {
    "clavier": "clavier-data",
    "webdataset": "webdataset",
    "streaming": "mosaicml-streaming",
    "litdata": "litdata",
}
WRITE: dict[str, Callable[[Path], None]] = {
    "clavier": write_clavier,
    "webdataset": write_webdataset,
    "streaming": write_streaming,
    "litdata": write_litdata,
}
READ: dict[str, Callable[[str, str], Iterator[np.ndarray]]] = {
    "clavier": read_clavier,
    "webdataset": read_webdataset,
    "streaming": read_streaming,
    "litdata": read_litdata,
}


def read(library: str, url: str, cache: str) -> dict[str, Any]:
    """Read an epoch: how many samples came right, wrong, twice, not at all, and what ended it."""
    seen: dict[int, int] = {}
    wrong, error = 0, ""
    try:
        for found in READ[library](url, cache):
            index = int(found[0]) if len(found) else -1
            right = 0 <= index < SAMPLES and np.array_equal(found, content(index))
            wrong += not right
            if right:
                seen[index] = seen.get(index, 0) + 1
            if sum(seen.values()) == 1:
                print("begun", flush=True)
    except Exception as caught:  # noqa: BLE001 - whatever a library raises is what is asked for
        error = f"{type(caught).__name__}: {caught}"[:300]
    return {
        "right": len(seen),
        "wrong": wrong,
        "doubled": sum(count > 1 for count in seen.values()),
        "missing": SAMPLES - len(seen),
        "error": error,
    }


def main() -> None:
    library, action, *arguments = sys.argv[1:]
    if action == "write":
        WRITE[library](Path(arguments[0]))
        print(json.dumps({"version": version(PACKAGES[library])}))
    else:
        print(json.dumps(read(library, *arguments)), flush=True)


if __name__ == "__main__":
    main()
