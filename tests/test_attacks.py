"""Hostile shards and manifests: nothing in them runs, nothing outside their folders is touched."""

import gzip
import io
import json
import os
import pickle
import tarfile
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
import web
from faultfs import FaultFileSystem

from loader import make_pipeline
from loader.cache import ShardCache
from loader.source import open_source
from loader.transfer import read_url
from packer.verify import verify
from shards.errors import DataError, DecodeError, FetchError, ManifestError, ShardError
from shards.keys import key_hash
from shards.manifest import load_manifest
from shards.npy import npy_view
from shards.reader import ShardReader
from shards.tar import scan, split_name


class Payload:
    """What leaves a file behind where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self):
        return (Path.touch, (self._trace,))


def entry(name: str = "k.json", *, data: bytes = b"{}", kind: bytes = tarfile.REGTYPE, **more):
    """One entry of a tar and its content."""
    member = tarfile.TarInfo(name)
    member.size, member.type = len(data), kind
    for field, value in more.items():
        setattr(member, field, value)
    return member, data


def tar(*entries, form: int = tarfile.GNU_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as file:
        for member, data in entries:
            file.addfile(member, io.BytesIO(data))
    return target.getvalue()


def scanned(data: bytes):
    return scan(lambda offset, size: data[offset : offset + size])


def manifest(*urls: str, **more) -> bytes:
    shards = [{"url": url, "nsamples": 1} for url in urls]
    return json.dumps({"wids_version": 1, "shardlist": shards} | more).encode()


# members that hold code


def test_members_that_hold_code_are_never_run(tmp_path):
    """webdataset unpickles ``.pyd`` and ``.pickle`` by default; here they are no fields."""
    trace = tmp_path / "executed"
    code = pickle.dumps(Payload(trace))
    names = ("pyd", "pkl", "pickle", "pt", "pth", "ckpt", "cls", "npz", "dill", "joblib", "py")
    members = [entry(f"k.{name}", data=code) for name in names]
    (tmp_path / "a.tar").write_bytes(tar(entry(), *members))
    with make_pipeline(str(tmp_path / "a.tar"), fields=["json"], batch_size=1) as pipe:
        (batch,) = list(pipe)
        assert batch["json"] == [{}]
    assert not trace.exists()
    pickle.loads(code)  # noqa: S301, the attack itself: it would have worked
    assert trace.exists()


@pytest.mark.parametrize("name", ["audio.npy", "notes.npy"])
def test_arrays_of_objects_are_refused(tmp_path, name):
    """numpy stores Python objects as pickles."""
    trace = tmp_path / "executed"
    target = io.BytesIO()
    np.save(target, np.array([Payload(trace)], dtype=object), allow_pickle=True)
    with pytest.raises(DecodeError, match="Python objects"):
        npy_view(target.getvalue())
    field = "audio" if name == "audio.npy" else "midi"
    (tmp_path / "a.tar").write_bytes(tar(entry(), entry(f"k.{name}", data=target.getvalue())))
    with (
        make_pipeline(str(tmp_path / "a.tar"), fields=[field], batch_size=1) as pipe,
        pytest.raises(DecodeError, match="Python objects"),
    ):
        list(pipe)
    assert not trace.exists()


# entries that are no plain files, and names that lead elsewhere


@pytest.mark.parametrize(
    "name",
    ["/etc/cron.d/k.json", "../k.json", "a/../../k.json", "./../k.json", "..", "a/..", "//k.json"],
)
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_names_that_lead_out_of_the_folder_are_refused(name, form):
    with pytest.raises(ShardError, match="leads out of the folder"):
        scanned(tar(entry(name), form=form))


def test_a_name_that_only_pax_tells_is_looked_at_too():
    """The plain header says ``good.json``; the record before it says where it would land."""
    evil = entry("good.json", pax_headers={"path": "../../evil.json"})
    with pytest.raises(ShardError, match=r"'\.\./\.\./evil\.json'"):
        scanned(tar(evil, form=tarfile.PAX_FORMAT))


def test_a_size_that_only_pax_tells_must_be_there_too():
    huge = entry("k.json", pax_headers={"size": str(2**40)})
    with pytest.raises(ShardError, match="truncated"):
        scanned(tar(huge, form=tarfile.PAX_FORMAT))


@pytest.mark.parametrize("name", ["a/./b.json", "...json", "..a/b.json", "a../b.json", "./k.json"])
def test_dots_that_lead_nowhere_are_names(name):
    assert scanned(tar(entry(name)))[1] > 0


@pytest.mark.parametrize(
    "name", ["\x1b[2Jk.json", "k\n.json", "k\r.json", "k\x7f.json", "k\x9b2J.json", "\x07/k.json"]
)
def test_names_with_control_characters_are_refused_and_shown_harmless(name):
    with pytest.raises(ShardError, match="control characters") as caught:
        scanned(tar(entry(name)))
    assert str(caught.value).isprintable()


KINDS = {
    "a hard link": tarfile.LNKTYPE,
    "a symbolic link": tarfile.SYMTYPE,
    "a character device": tarfile.CHRTYPE,
    "a block device": tarfile.BLKTYPE,
    "a pipe": tarfile.FIFOTYPE,
    "a sparse file": tarfile.GNUTYPE_SPARSE,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_is_refused_by_every_reader(tmp_path, kind):
    odd = entry("l.json", data=b"", kind=KINDS[kind], linkname="/etc/passwd")
    path = tmp_path / "a.tar"
    path.write_bytes(tar(entry("a.json"), odd, form=tarfile.GNU_FORMAT))
    with pytest.raises(ShardError, match="only plain files"):
        ShardReader(path)
    with pytest.raises(DataError, match="only plain files"):
        make_pipeline(str(path), fields=["json"])
    (tmp_path / "manifest.json").write_bytes(manifest("a.tar"))
    (result,) = verify(str(tmp_path), workers=0, progress=False)
    assert any("only plain files" in fault for fault in result.faults)


def test_a_key_that_is_no_text_has_a_place_all_the_same():
    """It is the bytes that count: Latin-1 names in tars of others are keys, too."""
    (members,), _ = scanned(tar(entry("caf\udce9.json")))
    assert key_hash(members[0].key) == key_hash("caf\udce9")


# shards that are something else


@pytest.mark.parametrize("what", ["a pipe", "a link to a device", "a folder"])
def test_a_shard_that_is_no_file_is_refused_at_once(tmp_path, what):
    """Opening a pipe waits for a writer, who never comes; a device has no end."""
    shard = tmp_path / "a.tar"
    {
        "a pipe": lambda: os.mkfifo(shard),
        "a link to a device": lambda: shard.symlink_to("/dev/zero"),
        "a folder": shard.mkdir,
    }[what]()
    (tmp_path / "manifest.json").write_bytes(manifest("a.tar"))
    with pytest.raises(DataError, match=r"a\.tar: is no plain file"):
        make_pipeline(tmp_path, fields=["json"])


@pytest.mark.parametrize("name", ["manifest.json", "a.tar.idx"])
def test_small_files_that_never_end_are_not_read(tmp_path, name):
    (tmp_path / "a.tar").write_bytes(tar(entry()))
    (tmp_path / "manifest.json").write_bytes(manifest("a.tar"))
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(DataError, match="no plain file"):
        make_pipeline(tmp_path, fields=["json"])


def test_a_link_to_a_file_of_the_system_shows_nothing_of_it(tmp_path):
    """Hugging Face's caches are made of links, so they are followed: to tars, and nothing else."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2 " * 200)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.tar").symlink_to(secret)
    (folder / "manifest.json").write_bytes(manifest("a.tar"))
    with pytest.raises(ShardError) as caught:
        make_pipeline(folder, fields=["json"])
    assert "hunter2" not in str(caught.value)


def test_compressed_tars_and_members_stay_compressed(tmp_path):
    """Ten megabytes of zeros in ten kilobytes are never unpacked."""
    bomb = gzip.compress(bytes(10_000_000))
    (tmp_path / "z.tar").write_bytes(bomb)
    with pytest.raises(ShardError, match=r"z\.tar: is compressed"):
        ShardReader(tmp_path / "z.tar")
    (tmp_path / "a.tar").write_bytes(tar(entry(), entry("k.json.gz", data=bomb)))
    with make_pipeline(str(tmp_path / "a.tar"), fields=["json"], batch_size=1) as pipe:
        assert [batch["json"] for batch in pipe] == [[{}]]


# lists of shards


@pytest.mark.parametrize(
    "url",
    [
        "pipe:touch executed",
        "pipe:touch executed; cat {}/a.tar",
        "a.tar|touch executed",
        "$(touch executed)/a.tar",
        "`touch executed`.tar",
        "-o executed.tar",
        "exec://touch executed",
    ],
)
def test_no_shard_is_a_command(tmp_path, monkeypatch, url):
    """webdataset gives ``pipe:`` to a shell."""
    monkeypatch.chdir(tmp_path)
    for shards in (url, [url], {url: 1.0}):
        with pytest.raises((DataError, ValueError)):
            make_pipeline(shards)
    (tmp_path / "manifest.json").write_bytes(manifest(url))
    with pytest.raises(DataError):
        make_pipeline(tmp_path)
    assert not (tmp_path / "executed").exists()


ELSEWHERE = [
    "../../etc/passwd",
    "../a.tar",
    "x/../../a.tar",
    "..\\..\\a.tar",
    "%2e%2e/a.tar",
    "x/%2E./%2e%2e/a.tar",
    "..%2fa.tar",
    "/etc/passwd",
    "%2fetc/a.tar",
    "//169.254.169.254/a.tar",
    "http://169.254.169.254/latest/meta-data/a.tar",
    "https://other.example/a.tar",
    "file:///etc/passwd",
    "file:a.tar",
    "pipe:cat a.tar",
    "s3://bucket/a.tar",
    "gs://bucket/a.tar",
    "hf://datasets/a/b/a.tar",
    "reference://a.tar",
    "zip://a.tar::https://other.example/b.zip",
    "simplecache::https://other.example/a.tar",
    "filecache::a.tar",
    "a/b://c.tar",
    "a::b.tar",
    "~root/a.tar",
    "C:\\a.tar",
    "\\\\host\\a.tar",
    "a.tar\0",
    "",
]


@pytest.mark.parametrize("url", ELSEWHERE)
def test_a_manifest_names_only_what_lies_in_its_folder(url):
    with pytest.raises(ManifestError, match=r"outside the dataset's folder|no name of a shard"):
        load_manifest(manifest(url), name="m")


@pytest.mark.parametrize(
    "url", ["manifest.json", "a.tar.idx", "evil.part", "a", ".a.tar.lock", "a\n.tar", "\x1b[2J.tar"]
)
def test_a_shard_takes_no_other_files_place_in_the_cache(url):
    with pytest.raises(ManifestError, match="no name of a shard"):
        load_manifest(manifest(url), name="m")


def test_a_manifest_on_the_web_asks_no_other_host(tmp_path):
    """Neither by a name nor by a listing: whoever is there gets no request."""
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    (inner / "data").mkdir(parents=True)
    outer.mkdir()
    with web.serve(inner) as server, web.serve(outer) as victim:
        for url in (f"{victim.url}/a.tar", f"//127.0.0.1:{victim.server_port}/a.tar", "../b.tar"):
            (inner / "data" / "manifest.json").write_bytes(manifest(url))
            with pytest.raises(ManifestError, match="outside"):
                make_pipeline(f"{server.url}/data", cache_dir=tmp_path / "cache")
        (inner / "data" / "manifest.json").unlink()
        listed = {f"{victim.url}/a.tar": ManifestError, "../b.tar": FetchError}
        listed |= {"x/../../b.tar": FetchError, "%2e%2e/b.tar": FetchError}
        for link, error in listed.items():
            page = f'<a href="{link}">a</a>'.encode()
            server.pages["/data"] = server.pages["/data/"] = page
            with pytest.raises(error, match=r"lies elsewhere|nor tars are in it"):
                make_pipeline(f"{server.url}/data", cache_dir=tmp_path / "cache")
        assert not any(path.endswith(".tar") for _, path in server.requests)
        assert victim.requests == []


def test_what_a_server_sends_compressed_is_not_unpacked(tmp_path):
    """A hundred megabytes in a hundred kilobytes; fsspec's client would unpack them."""
    with web.serve(tmp_path) as server:
        server.pages["/manifest.json"] = gzip.compress(bytes(100_000_000))
        server.encoding = "gzip"
        data = read_url(f"{server.url}/manifest.json", None)
    assert len(data) < 200_000


def test_a_file_that_grows_beyond_its_size_is_not_copied_to_the_end(tmp_path):
    shard = tar(entry(data=bytes(100_000)))
    folder = tmp_path / "data"
    folder.mkdir()
    told = {"url": "a.tar", "nsamples": 1, "filesize": len(shard), "sha256": "0" * 64}
    document = {"wids_version": 1, "shardlist": [told]}
    (folder / "manifest.json").write_text(json.dumps(document))
    (folder / "a.tar").write_bytes(shard + bytes(64 << 20))
    FaultFileSystem.reset()
    with pytest.raises(FetchError, match="not what the manifest says"):
        make_pipeline(f"fault://{folder}", cache_dir=tmp_path / "cache", fields=["json"])
    assert FaultFileSystem.reads["a.tar"] < 16 << 20
    assert not list((tmp_path / "cache").rglob("*.part"))


# numbers that no dataset has


@pytest.mark.parametrize(
    "more",
    [
        {"nsamples": 2**31},
        {"nsamples": 2**62},
        {"nsamples": 1, "filesize": 2**62},
        {"nsamples": -1},
        {"nsamples": 1, "filesize": -1},
        {"nsamples": 10**400},
        {"nsamples": 1e999},
        {"nsamples": float("nan")},
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_made_of_them(more):
    shard = json.dumps({"url": "a.tar"} | more)
    data = f'{{"wids_version": 1, "shardlist": [{shard}]}}'.encode()
    with pytest.raises(ManifestError):
        load_manifest(data, name="m")


def test_sizes_that_are_absurd_only_together_are_refused():
    shards = [{"url": f"{n}.tar", "nsamples": 1, "filesize": 2**50} for n in range(1025)]
    with pytest.raises(ManifestError, match="too many to be true"):
        load_manifest(json.dumps({"wids_version": 1, "shardlist": shards}).encode(), name="m")


@pytest.mark.parametrize(
    "more",
    [
        {"duration_s": 1e999},
        {"duration_s": "1"},
        {"labels": {"a": {"count": "<b>", "min": 0, "max": 0, "mean": 0, "std": 0}}},
        {"labels": {"a": {"count": 1, "min": 0, "max": 0, "mean": float("nan"), "std": 0}}},
        {"fields": {"audio": "flac`<script>"}},
        {"fields": {"audio": ["flac"]}},
        {"fields": [["a"]]},
    ],
)
def test_what_a_manifest_says_has_its_type(more):
    with pytest.raises(ManifestError, match="damaged"):
        load_manifest(manifest("a.tar", **more), name="m")


@pytest.mark.parametrize("deep", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000])
def test_json_without_bottom_is_damaged_json(tmp_path, deep):
    with pytest.raises(ManifestError, match="not JSON"):
        load_manifest(deep, name="m")
    (tmp_path / "a.tar").write_bytes(tar(entry("k.json", data=deep)))
    with pytest.raises(DecodeError, match="JSON is damaged"):
        make_pipeline(str(tmp_path / "a.tar"), fields=["json"])


@pytest.mark.parametrize("shape", ["(99999999999,)", "(4294967296, 4294967296)", "(0, 2**62)"])
def test_a_shape_is_believed_as_far_as_the_file_goes(shape):
    head = f"{{'descr': '<i2', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (-(10 + len(head) + 1) % 64) + b"\n"
    data = b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head + bytes(64)
    with pytest.raises(DecodeError):
        npy_view(data)


def test_a_length_that_only_json_tells_makes_no_row(tmp_path):
    """Half a terabyte of zeros, for a sample without audio."""
    told = json.dumps({"sample_rate": 1, "frames": 2**39}).encode()
    good = np.zeros(8, np.int16)
    target = io.BytesIO()
    np.save(target, good)
    first = [entry("a.json"), entry("a.audio.npy", data=target.getvalue())]
    (tmp_path / "a.tar").write_bytes(tar(*first, entry("b.json", data=told)))
    options = {"clip_seconds": None, "batch_size": 2, "shuffle": 0, "drop_last": False}
    with (
        make_pipeline(str(tmp_path / "a.tar"), fields=["audio"], **options) as pipe,
        pytest.raises(DecodeError, match="has no audio"),
    ):
        next(iter(pipe))


# time


def seconds(action) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def test_time_grows_with_the_bytes_and_not_with_their_square():
    """A megabyte each: PAX records of five bytes, ./ over and over, members of one sample."""
    records = b"6 a=b\n" * 170_000
    pax = tarfile.TarInfo("pax")
    pax.size, pax.type = len(records), tarfile.XHDTYPE
    many = tar((pax, records), entry())
    long_name = "./" * 500_000 + "k.json"
    members = b"".join(
        tarfile.TarInfo(f"k.{n}").tobuf(tarfile.USTAR_FORMAT) for n in range(40_000)
    ) + bytes(1024)
    assert seconds(lambda: scanned(many)) < 5  # half a minute and more, were it the square
    assert seconds(lambda: split_name(long_name)) < 5
    assert seconds(lambda: scanned(members)) < 5


# the cache


def test_a_file_of_somebody_else_in_the_cache_folder_harms_nothing(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "evil.part").write_bytes(b"?")
    (tmp_path / "x" / "a.tar.9x9.part").write_bytes(b"?")
    ShardCache(tmp_path)


def test_a_dataset_without_hashes_shares_no_cache_with_one_that_claims_to_be_it(tmp_path):
    """Same names, counts and sizes, other content: a manifest can say anything."""
    folders = []
    for name in ("honest", "evil"):
        folder = tmp_path / name
        folder.mkdir()
        told = {"url": "a.tar", "nsamples": 1, "filesize": 10_240}
        document = {"wids_version": 1, "name": "set", "shardlist": [told]}
        (folder / "manifest.json").write_text(json.dumps(document))
        folders.append(open_source(folder).shards.folders[0].name)
    assert folders[0] != folders[1]


def test_storage_options_never_come_from_a_manifest(tmp_path, monkeypatch):
    """Else a manifest could name credentials, proxies or other protocols."""
    asked = []
    real = fsspec.core.url_to_fs
    monkeypatch.setattr(
        fsspec.core, "url_to_fs", lambda url, **more: asked.append(more) or real(url, **more)
    )
    (tmp_path / "a.tar").write_bytes(tar(entry()))
    (tmp_path / "manifest.json").write_bytes(
        manifest("a.tar", options={"storage_options": {"anon": True}, "proxy": "x"})
    )
    make_pipeline(tmp_path, fields=["json"]).close()
    assert asked
    assert not any(asked)
