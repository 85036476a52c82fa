"""shards.manifest: what is written comes back, and what is damaged, newer or astray is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.columns import Strings
from shards.errors import ManifestError
from shards.manifest import (
    FORMAT_VERSION,
    LabelStats,
    Manifest,
    ShardInfo,
    ShardTable,
    dump_manifest,
    fingerprint,
    load_manifest,
)

SHARDS = (
    ShardInfo("shard-000000.tar", 3, 4096, "ab" * 32),
    ShardInfo("shard-000001.tar", 2, 2048, "cd" * 32),
)
MANIFEST = Manifest(
    name="études",
    shards=SHARDS,
    description="two shards",
    fields={"audio": "flac", "midi": "mid"},
    labels={"tempo": LabelStats(5, 0.0, 1.0, 0.5, 0.25), "absent": LabelStats(0, 0, 0, 0, 0)},
    options={"audio": "flac", "seed": 0, "split": {"train": 0.8}, "group_by": None},
    duration_s=50.125,
    packer_version="0.1.0",
)
FROZEN = """{
 "__kind__": "wids-shard-index-v1",
 "wids_version": 1,
 "format_version": 1,
 "name": "études",
 "description": "",
 "samples": 3,
 "duration_s": 0.0,
 "fields": {
  "midi": "mid"
 },
 "labels": {
  "tempo": {
   "count": 3,
   "min": 0.0,
   "max": 1.0,
   "mean": 0.5,
   "std": 0.25
  }
 },
 "options": {},
 "packer_version": "0.1.0",
 "shardlist": [
  {
   "url": "shard-000000.tar",
   "nsamples": 3,
   "filesize": 4096,
   "sha256": "%s"
  }
 ],
 "sha256": "%s"
}
"""


def document(**changes: object) -> bytes:
    """A manifest's JSON with some of its keys changed."""
    return json.dumps(json.loads(dump_manifest(MANIFEST)) | changes).encode()


def load(data: bytes) -> Manifest:
    return load_manifest(data, name="data/manifest.json")


def test_a_manifest_comes_back():
    assert load(dump_manifest(MANIFEST)) == MANIFEST
    assert (MANIFEST.samples, MANIFEST.bytes) == (5, 6144)


def test_the_bytes_are_frozen():
    """Byte-identical trees rely on it; a change needs a new format version."""
    manifest = Manifest(
        name="études",
        shards=SHARDS[:1],
        fields={"midi": "mid"},
        labels={"tempo": LabelStats(3, 0.0, 1.0, 0.5, 0.25)},
        packer_version="0.1.0",
    )
    own = "cf79d1ac514e465e9b24b313c9f08db27f7df2b4d15361b87ccf6b8b0cf6aba4"
    assert dump_manifest(manifest).decode() == FROZEN % ("ab" * 32, own)


def test_label_order_is_kept():
    labels = {name: LabelStats(1, 0, 0, 0, 0) for name in ("z", "a", "m")}
    again = load(dump_manifest(replace(MANIFEST, labels=labels)))
    assert list(again.labels) == ["z", "a", "m"]


def test_a_label_that_is_not_a_number_is_never_written():
    labels = {"x": LabelStats(1, 0.0, float("nan"), 0.0, 0.0)}
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_manifest(replace(MANIFEST, labels=labels))


def test_the_index_of_another_is_read():
    """wids needs ``wids_version``, ``url`` and ``nsamples``, and knows keys that we do not."""
    shard = {"url": "a.tar", "nsamples": 3, "md5sum": "0", "filesize": 10}
    manifest = load(json.dumps({"wids_version": 1, "shardlist": [shard], "info": {}}).encode())
    assert manifest.shards == (ShardInfo("a.tar", 3, 10, None),)
    assert (manifest.name, manifest.fields, manifest.labels) == ("", {}, {})


def test_shards_in_folders_below_and_with_odd_names_are_read():
    for url in ("part-1/a..b.tar", "2024-01-01T10:00.tar", "Op. 1: Andante.tar"):
        assert load(document(shardlist=[{"url": url, "nsamples": 1}])).shards[0].url == url


def test_a_newer_version_is_refused_and_both_are_named():
    newer = FORMAT_VERSION + 1
    with pytest.raises(ManifestError, match=rf"format version {newer} is newer .* \(1\)"):
        load(document(format_version=newer))


@pytest.mark.parametrize("version", [2, None, "1"])
def test_another_wids_version_is_refused(version):
    with pytest.raises(ManifestError, match="wids_version 1 was expected"):
        load(document(wids_version=version))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b"null",
        b'"text"',
        dump_manifest(MANIFEST)[:-20],
        document(shardlist=None),
        document(shardlist="ab"),
        document(shardlist=[[]]),
        document(shardlist=[{"url": "a.tar"}]),
        document(shardlist=[{"nsamples": 1}]),
        document(shardlist=[{"url": "a.tar", "nsamples": -1}]),
        document(shardlist=[{"url": "a.tar", "nsamples": "many"}]),
        document(shardlist=[{"url": "a.tar", "nsamples": float("inf")}]),
        document(shardlist=[{"url": "a.tar", "nsamples": 1, "filesize": -1}]),
        document(labels=[]),
        document(labels={"x": {"count": 1}}),
        document(labels={"x": {"median": 1}}),
        document(fields=3),
        document(options=[1]),
        document(duration_s="long"),
        document(format_version="1"),
    ],
)
def test_a_damaged_manifest_is_refused_by_name(data):
    with pytest.raises(ManifestError, match=r"^data/manifest\.json: "):
        load(data)


@pytest.mark.parametrize(
    "url",
    [
        "../a.tar",
        "train/../../a.tar",
        "a/..",
        "/etc/passwd",
        "\\\\host\\share\\a.tar",
        "~/a.tar",
        "http://example.com/a.tar",
        "file:///etc/passwd",
        "s3://bucket/a.tar",
        "zip://a.tar::http://example.com/b.zip",
        "simplecache::a.tar",
        "pipe:cat /etc/passwd",
        "",
        "a\0.tar",
    ],
)
def test_a_shard_elsewhere_is_refused(url):
    """A manifest read off the network must not make a reader open other places, or a shell."""
    with pytest.raises(ManifestError, match="outside the dataset's folder"):
        load(document(shardlist=[{"url": url, "nsamples": 1}]))


# --- the table of shards

COUNTS = st.integers(0, 2**63 - 1)
TEXT = st.text(st.characters())  # with lone surrogates, as JSON may have them
INFOS = st.lists(st.builds(ShardInfo, TEXT, COUNTS, st.none() | COUNTS, st.none() | TEXT))


@settings(deadline=None, max_examples=60)  # on a shared machine
@given(INFOS)
def test_a_table_is_the_shards_that_it_was_made_of(infos):
    table = ShardTable.of(infos)
    assert list(table) == infos
    assert table == tuple(infos)
    assert [table[number] for number in range(len(infos))] == infos
    assert [table[number] for number in range(-len(infos), 0)] == infos
    assert table[1::2] == tuple(infos[1::2])
    assert fingerprint(table) == fingerprint(infos)
    assert ShardTable.of(table) is table


def test_a_table_is_told_from_others_and_ends():
    table = ShardTable.of(SHARDS)
    for other in (SHARDS[:1], (SHARDS[0], replace(SHARDS[1], sha256=None)), "x"):
        assert table != other
    for number in (2, -3):
        with pytest.raises(IndexError):
            table[number]


def test_numbers_beyond_64_bits_are_refused():
    with pytest.raises(ManifestError, match="damaged"):
        load(document(shardlist=[{"url": "a.tar", "nsamples": 2**63}]))


@pytest.mark.parametrize("ends", [[3, 1, 4], [1, 2, 3], [1, 2, 5], [-1, 2, 4], []])
def test_strings_that_do_not_fit_their_text_are_refused(ends):
    with pytest.raises(ValueError, match="strings end at"):
        Strings(np.frombuffer(b"text", np.uint8), np.array(ends, np.int64))


# --- the fingerprint


def test_the_fingerprint_is_frozen():
    """Saved loader states rely on it."""
    assert fingerprint(SHARDS) == (
        "69ffdce8947e797599779429aedbd882f1f1d0291ebbf964b57c470f95f23184"
    )


def test_the_fingerprint_is_independent_of_the_url():
    moved = tuple(replace(shard, url=f"gs://elsewhere/deep/{shard.url}") for shard in SHARDS)
    assert fingerprint(moved) == fingerprint(SHARDS)


@pytest.mark.parametrize(
    "other",
    [
        SHARDS[::-1],
        SHARDS[:1],
        (replace(SHARDS[0], url="shard-000009.tar"), SHARDS[1]),
        (replace(SHARDS[0], nsamples=4), SHARDS[1]),
        (replace(SHARDS[0], sha256="00" * 32), SHARDS[1]),
        (replace(SHARDS[0], sha256=None), SHARDS[1]),
    ],
    ids=["order", "fewer", "name", "count", "hash", "no hash"],
)
def test_the_fingerprint_changes_with_the_data(other):
    assert fingerprint(other) != fingerprint(SHARDS)


def test_without_a_hash_the_size_speaks():
    plain = tuple(replace(shard, sha256=None) for shard in SHARDS)
    assert fingerprint(plain) != fingerprint((replace(plain[0], filesize=4097), plain[1]))


def test_with_a_hash_the_size_does_not():
    sized = (replace(SHARDS[0], filesize=None), SHARDS[1])
    assert fingerprint(sized) == fingerprint(SHARDS)
