"""Other people's readers open our shards, and find the same keys and the same bytes."""

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
import soundfile

from packer.build import build
from packer.options import Options
from shards.manifest import load_manifest
from shards.reader import ShardReader

RATE = 8000


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Twelve samples of audio, MIDI and labels in three shards or so."""
    folder = tmp_path_factory.mktemp("interop")
    rng = np.random.default_rng(0)
    lines = []
    for n in range(12):
        soundfile.write(folder / f"{n}.wav", rng.uniform(-0.5, 0.5, RATE), RATE)
        file = mido.MidiFile()
        notes = [mido.Message(kind, note=60 + n) for kind in ("note_on", "note_off")]
        file.tracks.append(mido.MidiTrack([notes[0], notes[1].copy(time=480)]))
        file.save(folder / f"{n}.mid")
        paths = {"audio_path": f"{n}.wav"} | ({"midi_path": f"{n}.mid"} if n % 4 else {})
        labels = {"tempo": n, "touch": None if n % 3 else n / 2}
        extra = {"hall": {"name": "Musikverein"}} if n == 7 else {}
        lines.append(json.dumps(paths | {"labels": labels} | extra))
    (folder / "études.jsonl").write_text("\n".join(lines))
    options = Options(sample_rate=RATE, shard_bytes=60_000)
    build(folder / "études.jsonl", str(folder / "out"), options=options, workers=0, progress=False)
    return folder / "out"


@pytest.fixture(scope="module")
def samples(dataset) -> list[tuple[str, dict[str, bytes]]]:
    """Keys and bytes as our own reader finds them, in stored order."""
    found = []
    for shard in shards(dataset):
        with ShardReader(shard) as reader:
            for row in range(len(reader)):
                found.append((reader.members(row)[0].key, reader.read(row)))
    assert len(found) == 12
    return found


def shards(dataset: Path) -> list[Path]:
    manifest = load_manifest((dataset / "manifest.json").read_bytes(), name="manifest.json")
    assert len(manifest.shards) > 1
    return [dataset / info.url for info in manifest.shards]


def members(samples: list[tuple[str, dict[str, bytes]]]) -> list[tuple[str, bytes]]:
    return [(f"{key}.{ext}", data) for key, files in samples for ext, data in files.items()]


def test_gnu_tar_lists_and_extracts(dataset, samples, tmp_path):
    names = []
    for shard in shards(dataset):
        command = ["tar", "xvf", shard]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        names += done.stdout.split()
    assert names == [name for name, _ in members(samples)]
    for name, data in members(samples):
        assert (tmp_path / name).read_bytes() == data


def test_tarfile_reads_plain_files_of_nobody(dataset, samples):
    found = []
    for shard in shards(dataset):
        with tarfile.open(shard) as tar:
            for info in tar:
                assert (info.isreg(), info.mtime, info.uid, info.uname) == (True, 0, 0, "")
                content = tar.extractfile(info)
                assert content is not None
                found.append((info.name, content.read()))
    assert found == members(samples)


# webdataset leaves the closing of its files to the garbage collector
LEAVES_FILES_OPEN = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning",
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning",
)


@LEAVES_FILES_OPEN
def test_webdataset_streams_the_same_samples(dataset, samples):
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed")
    stream = wds.WebDataset([str(shard) for shard in shards(dataset)], shardshuffle=False)
    for sample, (key, files) in zip(stream, samples, strict=True):
        assert sample["__key__"] == key
        assert {name: sample[name] for name in sample if not name.startswith("__")} == files


@LEAVES_FILES_OPEN
def test_webdataset_decodes_what_it_knows(dataset, samples):
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed")
    stream = wds.WebDataset(str(shards(dataset)[0]), shardshuffle=False).decode()
    sample = next(iter(stream))
    assert sample["json"] == json.loads(samples[0][1]["json"])


def test_wids_finds_every_sample_by_number(dataset, samples, tmp_path):
    wids = pytest.importorskip("wids", reason="wids is not installed")
    manifest = str(dataset / "manifest.json")
    opened = wids.ShardListDataset(manifest, cache_dir=str(tmp_path), keep=True, transformations=[])
    assert len(opened) == 12
    for number in (11, 0, 5, *range(12)):
        sample, (key, files) = opened[number], samples[number]
        assert sample["__key__"] == key
        assert {ext: sample[f".{ext}"].read() for ext in files} == files
    opened.close()


def huggingface(dataset: Path, cache: Path, **options: object) -> Any:
    """Rows as ``load_dataset("webdataset")`` gives them."""
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    return datasets.load_dataset(
        "webdataset",
        data_files={"train": [str(shard) for shard in shards(dataset)]},
        split="train",
        cache_dir=str(cache),
        **options,
    )


@pytest.mark.parametrize("streaming", [True, False], ids=["streamed", "mapped"])
def test_huggingface_datasets_reads_the_same_bytes(dataset, samples, tmp_path, streaming):
    """With the fields named: what it takes for audio it opens with torchcodec alone."""
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    pyarrow = pytest.importorskip("pyarrow")
    metas = [json.loads(files["json"]) for _, files in samples]
    inferred = datasets.Features.from_arrow_schema(pyarrow.Table.from_pylist(metas).schema)
    text, binary = datasets.Value("string"), datasets.Value("binary")
    fields = {"flac": binary, "json": inferred, "mid": binary, "__key__": text, "__url__": text}
    rows = huggingface(dataset, tmp_path, streaming=streaming, features=datasets.Features(fields))
    for row, (key, files), meta in zip(rows, samples, metas, strict=True):
        assert (row["__key__"], row["flac"], row["mid"]) == (key, files["flac"], files["mid"])
        assert row["json"] == meta


@pytest.mark.parametrize("streaming", [True, False], ids=["streamed", "mapped"])
def test_huggingface_datasets_finds_the_fields_by_itself(dataset, samples, tmp_path, streaming):
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    try:
        import torchcodec  # noqa: F401
    except (ImportError, OSError, RuntimeError):  # it looks for FFmpeg's libraries when imported
        pytest.skip("datasets opens audio with torchcodec, which is missing or lacks FFmpeg")
    loaded = huggingface(dataset, tmp_path, streaming=streaming)
    rows = loaded.cast_column("flac", datasets.Audio(decode=False))
    for row, (key, files) in zip(rows, samples, strict=True):
        assert (row["__key__"], row["mid"]) == (key, files["mid"])
        assert row["flac"]["bytes"] == files["flac"]
        assert row["json"] == json.loads(files["json"])


def test_soundfile_and_mido_open_the_members(samples):
    for _, files in samples:
        meta = json.loads(files["json"])
        info = soundfile.info(io.BytesIO(files["flac"]))
        assert (info.samplerate, info.frames, info.channels) == (RATE, meta["frames"], 1)
        assert info.subtype == "PCM_16"
        notes = [m for m in mido.MidiFile(file=io.BytesIO(files["mid"])) if m.type == "note_on"]
        assert bool(notes) == meta["has_midi"]


def test_an_index_is_megatron_energons(dataset):
    """N + 1 offsets: each header that begins a sample, then the first block of the end."""
    for shard in shards(dataset):
        offsets = np.fromfile(f"{shard}.idx", dtype="<u8").tolist()
        with tarfile.open(shard) as tar:
            infos = tar.getmembers()
            end = tar.offset
        starts = {}
        for info in infos:
            starts.setdefault(info.name.partition(".")[0], info.offset)
        assert offsets == [*starts.values(), end]
        assert offsets[0] == 0
