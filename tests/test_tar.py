"""shards.tar and shards.reader: every WebDataset tar is read, and no damaged one is believed."""

import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import ShardError
from shards.index import index_bytes
from shards.reader import ShardReader
from shards.tar import END_OF_ARCHIVE, Member, sample_bytes, scan, split_name, walk

settings.register_profile("shared machine", deadline=None, max_examples=60)
settings.load_profile("shared machine")

LONG = "a" * 60 + "/" + "b" * 90  # neither the name field nor its prefix holds it
LONGER = "/".join(["deep" * 20] * 5)  # beyond what USTAR can name at all
KEYS = st.text("abcXYZ019_-", min_size=1, max_size=40)
EXTENSIONS = st.sampled_from(["json", "flac", "mid", "audio.npy", "notes.npy"])
SAMPLES = st.dictionaries(
    KEYS, st.dictionaries(EXTENSIONS, st.binary(max_size=1200), min_size=1), max_size=6
)


def tar_of(
    *members: tuple[str, bytes] | tarfile.TarInfo, tar_format: int = tarfile.USTAR_FORMAT
) -> bytes:
    """A tar of (name, content) members, and of bare entries such as folders and links."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tar_format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return target.getvalue()


def entry(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def header(name: str, *, size: bytes = b"00000000000\0", kind: bytes = b"0") -> bytes:
    """A USTAR header with a size field of one's own, whose checksum holds."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    block[124:136], block[156:157] = size, kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records: bytes) -> bytes:
    """An extended header of these records, as they are."""
    head = header("pax", size=b"%011o\0" % len(records), kind=b"x")
    return head + records + bytes(-len(records) % 512)


def scanned(data: bytes) -> tuple[list[list[Member]], int]:
    return scan(lambda offset, size: data[offset : offset + size])


def contents(data: bytes) -> dict[str, dict[str, bytes]]:
    """What ``scan`` finds in a tar: bytes by key and extension."""
    samples, _ = scanned(data)
    return {
        members[0].key: {m.extension: data[m.start : m.start + m.size] for m in members}
        for members in samples
    }


def written(samples: Mapping[str, Mapping[str, bytes]]) -> bytes:
    return b"".join(sample_bytes(key, files) for key, files in samples.items()) + END_OF_ARCHIVE


# --- what is written


@given(SAMPLES)
def test_what_is_written_is_what_is_scanned(samples):
    assert contents(written(samples)) == samples


@given(SAMPLES)
def test_the_end_is_where_the_end_of_archive_blocks_start(samples):
    data = written(samples)
    assert scanned(data)[1] == len(data) - 1024


@given(SAMPLES, st.data())
def test_no_prefix_of_a_shard_passes_for_a_shard(samples, data):
    """Not even one that is cut exactly between two members."""
    whole = written(samples)[:-1024]
    sizes = st.integers(0, len(whole)) | st.sampled_from(range(0, len(whole) + 1, 512))
    with pytest.raises(ShardError, match="truncated"):
        scanned(whole[: data.draw(sizes)])


@given(SAMPLES.filter(bool), st.data())
def test_no_changed_byte_of_a_header_goes_unnoticed(samples, data):
    whole = bytearray(written(samples))
    members = [member for sample in scanned(bytes(whole))[0] for member in sample]
    start = data.draw(st.sampled_from(members)).start - 512
    position = start + data.draw(st.integers(0, 511).filter(lambda i: not 148 <= i < 156))
    whole[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ShardError, match="checksum"):
        scanned(bytes(whole))


def test_a_header_is_frozen():
    """Byte-identical trees rely on it: no time, no user, no host, mode 0644."""
    block = sample_bytes("key", {"json": b"{}"})
    assert len(block) == 1024
    assert block[:8] == b"key.json"
    assert block[100:108] == b"0000644\0"
    assert block[108:124] == b"0000000\0" * 2
    assert block[124:157] == b"00000000002\x0000000000000\x00007420\0 0"
    assert block[257:265] == b"ustar\x0000"
    assert not any(block[265:329])
    assert block[512:] == b"{}" + bytes(510)


def test_a_name_that_does_not_fit_ustar_is_refused():
    with pytest.raises(ValueError, match="name is too long"):
        sample_bytes("k" * 100, {"json": b""})


def test_gnu_tar_lists_and_extracts_what_is_written(tmp_path):
    samples = {f"key-{n}": {"json": b"{}", "audio.npy": b"\1" * (700 * n)} for n in range(3)}
    (tmp_path / "x.tar").write_bytes(written(samples))
    listed = subprocess.run(
        ["tar", "tf", "x.tar"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    names = [f"{key}.{extension}" for key, files in samples.items() for extension in files]
    assert (listed.stdout.split(), listed.stderr) == (names, "")
    subprocess.run(["tar", "xf", "x.tar"], cwd=tmp_path, check=True)
    for key, files in samples.items():
        for extension, data in files.items():
            assert (tmp_path / f"{key}.{extension}").read_bytes() == data


# --- names


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("a.wav", ("a", "wav")),
        ("a.audio.npy", ("a", "audio.npy")),
        ("a/b.c.WAV", ("a/b", "c.wav")),
        ("v1.0/x.wav", ("v1.0/x", "wav")),
        ("./000.wav", ("000", "wav")),
        (".//./d/000.wav", ("d/000", "wav")),
        ("Song 1.MID", ("Song 1", "mid")),
        ("für-élise.mid", ("für-élise", "mid")),
        ("x__y__/a.wav", ("x__y__/a", "wav")),
        ("a.", ("a", "")),
    ],
)
def test_a_name_is_a_key_up_to_the_first_dot_of_the_base_name(name, split):
    assert split_name(name) == split


@pytest.mark.parametrize(
    "name",
    ["noext", ".hidden", "d/.hidden.wav", "._a.wav", "d/._a.wav", "__meta__/a.json", "./__x__/a.b"],
)
def test_dot_files_names_without_a_dot_and_side_data_are_no_members(name):
    assert split_name(name) is None


# --- tars of others


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_every_format_is_read(tar_format):
    data = tar_of(("a.wav", b"1" * 700), ("a.json", b"{}"), ("b.wav", b""), tar_format=tar_format)
    assert contents(data) == {"a": {"wav": b"1" * 700, "json": b"{}"}, "b": {"wav": b""}}


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_a_name_of_more_than_100_bytes_is_whole(tar_format):
    data = tar_of((f"{LONG}.wav", b"1"), (f"{LONG}.mid", b"2"), tar_format=tar_format)
    assert contents(data) == {LONG: {"wav": b"1", "mid": b"2"}}


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", [LONGER, "Frühling/Étude – 練習", LONGER + "é" * 40])
def test_long_and_unicode_names_are_whole(tar_format, name):
    data = tar_of((f"{name}.wav", b"1"), ("b.wav", b"2"), tar_format=tar_format)
    assert contents(data) == {name: {"wav": b"1"}, "b": {"wav": b"2"}}


def test_a_sample_starts_with_its_extension_headers():
    data = tar_of(("a.wav", b"1"), (f"{LONGER}.wav", b"2"), tar_format=tarfile.PAX_FORMAT)
    (_, (second,)), end = scanned(data)
    assert second.header == 1024
    assert second.start > 2048
    (again,) = walk(lambda offset, size: data[offset : offset + size], 1024, end)
    assert again == second


def test_folders_dot_names_and_side_data_are_passed_over():
    data = tar_of(
        entry("./", tarfile.DIRTYPE),
        entry("./d/", tarfile.DIRTYPE),
        ("./d/a.wav", b"1"),
        ("./d/._a.wav", b"resource fork"),
        ("./d/a.mid", b"2"),
        ("./__meta__/info.json", b"{}"),
        ("./d/b.wav", b"3"),
        ("./README", b"text"),
    )
    assert contents(data) == {"d/a": {"wav": b"1", "mid": b"2"}, "d/b": {"wav": b"3"}}


def test_a_tar_of_a_folder_by_gnu_tar_is_read(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.wav", "a.mid", "b.wav", "b.mid", "n" * 120 + ".wav"):
        (folder / name).write_bytes(name.encode())
    command = ["tar", "cf", "x.tar", "-C", "in", "--sort=name", "."]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = contents((tmp_path / "x.tar").read_bytes())
    assert found["a"] == {"mid": b"a.mid", "wav": b"a.wav"}
    assert found.keys() == {"a", "b", "n" * 120}


def test_a_pax_size_outdoes_the_header():
    data = pax(b"12 size=600\n") + header("a.wav")
    data += b"1" * 600 + bytes(424) + END_OF_ARCHIVE
    assert contents(data) == {"a": {"wav": b"1" * 600}}


def test_a_size_in_base_256_is_read():
    size = b"\x80" + (600).to_bytes(11, "big")
    data = header("a.wav", size=size) + b"1" * 600 + bytes(424) + END_OF_ARCHIVE
    assert contents(data) == {"a": {"wav": b"1" * 600}}


def test_a_tar_of_the_seventies_is_read():
    """Type NUL instead of "0", no magic."""
    block = bytearray(header("a.wav", size=b"00000000003\0", kind=b"\0"))
    block[257:265] = bytes(8)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert contents(bytes(block) + b"old" + bytes(509) + END_OF_ARCHIVE) == {"a": {"wav": b"old"}}


def test_global_pax_headers_are_passed_over():
    data = pax(b"18 comment=a note\n").replace(b"x" + bytes(100), b"g" + bytes(100), 1)
    block = bytearray(data[:512])
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    whole = bytes(block) + data[512:] + tar_of(("a.wav", b"1"))
    assert contents(whole) == {"a": {"wav": b"1"}}


# --- tars that are refused


def test_members_of_a_sample_that_lie_apart_are_refused():
    data = tar_of(("a.wav", b"1"), ("b.wav", b"2"), ("a.mid", b"3"))
    with pytest.raises(ShardError, match="members of sample 'a' lie apart"):
        scanned(data)


@pytest.mark.parametrize("twin", ["a.wav", "./a.wav", "a.WAV"])
def test_a_member_that_comes_twice_is_refused(twin):
    with pytest.raises(ShardError, match=r"sample 'a' has two members \.wav"):
        scanned(tar_of(("a.wav", b"1"), (twin, b"2")))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(kind):
    data = tar_of(("a.wav", b"1"), entry("b.wav", kind, link="../../etc/passwd"))
    with pytest.raises(ShardError, match=r"'b\.wav' is of tar type"):
        scanned(data)


@pytest.mark.parametrize(
    "data",
    [
        header("a.wav", kind=b"S") + END_OF_ARCHIVE,
        pax(b"22 GNU.sparse.major=1\n") + header("a.wav") + END_OF_ARCHIVE,
    ],
    ids=["gnu", "pax"],
)
def test_sparse_files_are_refused(data):
    with pytest.raises(ShardError, match=r"sparse|type b'S'"):
        scanned(data)


def test_bytes_that_are_no_tar_are_refused():
    with pytest.raises(ShardError, match="damaged header at byte 0"):
        scanned(b"RIFF" + bytes(range(256)) * 8)


def test_an_empty_file_is_no_tar_and_an_empty_tar_has_no_samples():
    with pytest.raises(ShardError, match="truncated"):
        scanned(b"")
    assert scanned(END_OF_ARCHIVE) == ([], 0)


@pytest.mark.parametrize(
    "size",
    [
        b"-0000002000\0",  # would lead the walk back to where it came from, for ever
        b"\x80" + b"\xff" * 11,
        b"\xff" * 12,
        b"0000000009x\0",
    ],
)
def test_an_impossible_size_is_refused(size):
    data = sample_bytes("a", {"wav": b"1"}) + header("b.wav", size=size) + END_OF_ARCHIVE
    with pytest.raises(ShardError, match="damaged header at byte 1024"):
        scanned(data)


@pytest.mark.parametrize("size", [b"77777777777\0", b"\x80" + bytes(4) + b"\1" + bytes(6)])
def test_a_size_beyond_the_file_is_a_truncated_tar(size):
    with pytest.raises(ShardError, match="truncated"):
        scanned(header("a.wav", size=size) + END_OF_ARCHIVE)


@pytest.mark.parametrize(
    "record",
    ["size=²\n", "size=-5\n", f"size={'9' * 30}\n", f"size={'9' * 5000}\n", "size\n"],
    ids=["superscript", "negative", "thirty digits", "5000 digits", "no value"],
)
def test_a_damaged_pax_header_is_refused(record):
    text = record.encode()
    length = next(n for n in range(9999) if n == len(f"{n} ") + len(text))
    with pytest.raises(ShardError, match="damaged PAX header"):
        scanned(pax(b"%d " % length + text) + header("a.wav") + END_OF_ARCHIVE)


@pytest.mark.parametrize("records", [b"x path=a\n", b"0 path=a\n", b"9" * 5000 + b" path=a\n"])
def test_a_pax_record_without_a_length_is_refused(records):
    with pytest.raises(ShardError, match="damaged PAX header"):
        scanned(pax(records) + header("a.wav") + END_OF_ARCHIVE)


def test_an_extended_header_of_a_gigabyte_is_not_read():
    with pytest.raises(ShardError, match="extended header at byte 512 claims"):
        scanned(header("L", size=b"%011o\0" % 2**30, kind=b"L") + END_OF_ARCHIVE)


def test_an_entry_that_overlaps_the_next_sample_is_refused():
    data = sample_bytes("a", {"wav": b"1"})
    with pytest.raises(ShardError, match="claims 1 bytes: too many"):
        list(walk(lambda offset, size: data[offset : offset + size], 0, 512))


# --- the reader


@pytest.fixture
def shard(tmp_path) -> Path:
    """Three samples, with an index in Energon's layout."""
    samples = {f"key-{n}": {"json": b"{}", "wav": bytes([n]) * (600 * n)} for n in range(3)}
    path = tmp_path / "shard-000000.tar"
    path.write_bytes(written(samples))
    with ShardReader(path) as reader:
        path.with_name(path.name + ".idx").write_bytes(index_bytes(reader.offsets))
    return path


@pytest.mark.parametrize("samples", [None, 3], ids=["scanned", "indexed"])
def test_a_reader_reads_any_sample_by_position(shard, samples):
    with ShardReader(shard, samples=samples) as reader:
        assert len(reader) == 3
        for row in (2, 0, 1, 2):
            assert reader.read(row) == {"json": b"{}", "wav": bytes([row]) * (600 * row)}
            assert {member.key for member in reader.members(row)} == {f"key-{row}"}


def test_an_index_of_lhotse_gives_the_last_sample_whole(shard):
    """Its last value is the size of the file, end-of-archive blocks and all."""
    size = shard.stat().st_size
    with ShardReader(shard) as scanned_reader:
        offsets = scanned_reader.offsets.tolist()
    shard.with_name(shard.name + ".idx").write_bytes(index_bytes([*offsets[:-1], size]))
    with ShardReader(shard, samples=3) as reader:
        assert reader.offsets.tolist() == offsets
        assert reader.read(2) == {"json": b"{}", "wav": b"\2" * 1200}


def test_an_index_is_not_asked_where_the_count_is_unknown(shard):
    shard.with_name(shard.name + ".idx").write_bytes(b"rubbish")
    with ShardReader(shard) as reader:
        assert len(reader) == 3
    with pytest.raises(ShardError, match="do not index 3 samples"):
        ShardReader(shard, samples=3)


def test_an_index_of_another_shard_is_found_out(shard):
    """Its offsets rise in blocks within the tar, but fall between members of one sample."""
    shard.with_name(shard.name + ".idx").write_bytes(index_bytes([0, 512, 1024, 1536]))
    with ShardReader(shard, samples=3) as reader, pytest.raises(ShardError, match="sample 0"):
        reader.read(0)
    shard.with_name(shard.name + ".idx").write_bytes(index_bytes([0, 4096, 4608, 7168]))
    with ShardReader(shard, samples=3) as reader, pytest.raises(ShardError, match="is torn"):
        reader.read(0)


def test_a_wrong_count_is_refused_without_an_index_too(shard):
    shard.with_name(shard.name + ".idx").unlink()
    with pytest.raises(ShardError, match="holds 3 samples, not 4"):
        ShardReader(shard, samples=4)


def test_reading_past_the_end_is_an_error_and_no_silence(shard):
    with ShardReader(shard, samples=3) as reader:
        with shard.open("r+b") as file:
            file.truncate(4096)
        with pytest.raises(ShardError, match="truncated"):
            reader.read(2)
        with pytest.raises(ShardError, match=f"truncated at byte {4096}"):
            reader.read_into(memoryview(bytearray(600)), 4000)


def test_errors_name_the_shard(tmp_path):
    path = tmp_path / "broken.tar"
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(ShardError, match=r"broken\.tar: damaged header"):
        ShardReader(path)
    with pytest.raises(FileNotFoundError):
        ShardReader(tmp_path / "absent.tar")


def test_a_reader_gives_its_file_back(shard):
    reader = ShardReader(shard)
    reader.close()
    reader.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        reader.read_at(0, 1)
