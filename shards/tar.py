"""Tar headers, written and walked: the bytes of a sample, and the members of any WebDataset tar."""

import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from shards.errors import ShardError

BLOCK = 512
END_OF_ARCHIVE = bytes(2 * BLOCK)

ReadAt = Callable[[int, int], bytes | memoryview]

_REGULAR = b"0\x007"  # type flags of plain files: "0", NUL of old tars, "7" contiguous
_EXTENSION_HEADERS = b"LKxgXN"  # GNU long names, PAX records: they describe what follows
_DIRECTORY = b"5"
_PAX = (b"path", b"size")  # all that is kept of PAX records
_COUNT = re.compile(rb"[0-9]{1,20}")
_SIDE_DATA = re.compile(r"__[^/]*__(/|$)")  # webdataset's own convention for dataset-wide files
_MAX_EXTENSION_BYTES = 1 << 20  # a longer name or PAX record is an attack, not a name
_MAX_NAME = 4096  # characters; no system opens a longer path
# names that lead out of the folder a tar is unpacked in, or steer the terminal they are printed on
_ABSOLUTE_OR_UP = re.compile(r"/|(?:.*/)?\.\.(?:/|$)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HERE = re.compile(r"(?:\./+)+")
_COMPRESSED = {  # how what is no tar any more begins, and what unpacks it
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\0": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}
_MAX_SIZE = 1 << 62  # offsets past it overflow what the system can seek to


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a sample: where its header begins and where its bytes lie in the tar."""

    key: str
    extension: str
    header: int
    start: int
    size: int


def sample_bytes(key: str, members: Mapping[str, bytes]) -> bytes:
    """The tar blocks of one sample: a USTAR header and padded bytes for each member, in order.

    Nothing in them depends on time, user or host, so equal samples give equal bytes.

    Raises:
        ValueError: if the name ``KEY.EXT`` does not fit a USTAR header.
    """
    parts: list[bytes] = []
    for extension, data in members.items():
        header = tarfile.TarInfo(f"{key}.{extension}")
        header.size = len(data)
        parts += [header.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % BLOCK)]
    return b"".join(parts)


def split_name(name: str) -> tuple[str, str] | None:
    """Key and lower-case extension of a member name; None for names WebDataset leaves out.

    The key is the folder and the base name up to its first dot: ``a/b.c.WAV`` is
    ``("a/b", "c.wav")``. Dot files, names without a dot and ``__side data__`` are no members.
    """
    if (here := _HERE.match(name)) is not None:
        name = name[here.end() :]
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or _SIDE_DATA.match(name):
        return None
    return folder + slash + stem, extension.lower()


def walk(read_at: ReadAt, start: int, stop: int | None) -> Iterator[Member]:
    """Members in tar order between two offsets; USTAR, GNU long names and PAX are understood.

    Args:
        read_at: ``read_at(offset, size)`` gives the bytes there, fewer at the end.
        start, stop: offsets of the first header and of the end of the last member, in bytes; None
            is where the end-of-archive blocks start.

    Raises:
        ShardError: if a header is damaged, an entry is cut short, one is a link, device or
            sparse file, or its name leads out of a folder or holds control characters.
    """
    for entry in _entries(read_at, start, stop):
        if entry.kind in _REGULAR and (split := split_name(entry.name)):
            yield Member(*split, entry.header, entry.start, entry.size)


def scan(read_at: ReadAt) -> tuple[list[list[Member]], int]:
    """The samples of a whole tar, and the offset at which its end-of-archive blocks start.

    Returns:
        The members of each sample, in tar order; the offset in bytes.

    Raises:
        ShardError: as ``walk`` does; also if members of a sample lie apart or one comes twice,
            if the tar lacks its end-of-archive blocks and so was cut off, or if it is compressed.
    """
    _require_plain(bytes(read_at(0, BLOCK)))
    samples: dict[str, list[Member]] = {}
    seen: set[str] = set()  # extensions of the last sample
    last, end = "", 0
    for entry in _entries(read_at, 0, None):
        end = entry.start + entry.size + -entry.size % BLOCK
        if entry.kind not in _REGULAR or not (split := split_name(entry.name)):
            continue
        key, extension = split
        members = samples.setdefault(key, [])
        if members and key != last:
            raise ShardError(
                f"members of sample {key!r} lie apart from each other: one is at byte "
                f"{entry.header}"
            )
        if not members:
            seen.clear()
        if extension in seen:
            raise ShardError(
                f"sample {key!r} has two members .{extension}, the second at byte {entry.header}"
            )
        members.append(Member(key, extension, entry.header, entry.start, entry.size))
        seen.add(extension)
        last = key
    return list(samples.values()), end


def _require_plain(start: bytes) -> None:
    """Refuse what begins as a compressed file does: nothing in it can be found by its place."""
    for magic, command in _COMPRESSED.items():
        if start.startswith(magic):
            raise ShardError(f"is compressed, and a shard is read here and there: {command} it")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of a tar; ``header`` counts from its extension headers, if it has any."""

    name: str
    kind: bytes
    header: int
    start: int
    size: int


def _entries(read_at: ReadAt, start: int, stop: int | None) -> Iterator[_Entry]:
    """Files and directories from ``start`` to ``stop``, or to the end-of-archive blocks."""
    offset, header, long_name, pax = start, start, "", dict[str, str]()
    while stop is None or offset < stop:
        block = read_at(offset, BLOCK)
        if len(block) < BLOCK:
            raise ShardError(f"truncated: no header and no end-of-archive block at byte {offset}")
        if stop is None and not any(block):
            return
        kind = bytes(block[156:157])
        size = int(pax["size"]) if "size" in pax else _size(block, offset)
        if not 0 <= size < _MAX_SIZE:
            raise ShardError(f"damaged header at byte {offset}: it claims {size} bytes")
        data = offset + BLOCK
        offset = data + size + -size % BLOCK
        if stop is not None and offset > stop:
            raise ShardError(f"the entry at byte {data - BLOCK} claims {size} bytes: too many")
        if kind in _EXTENSION_HEADERS:
            long_name, pax = _extension(read_at, kind, data, size, long_name, pax)
            continue
        name = pax.get("path") or long_name or _name(block)
        _require_harmless(name, data - BLOCK)
        if kind not in _REGULAR + _DIRECTORY:
            raise ShardError(f"{name!r} is of tar type {kind!r}: only plain files are read")
        yield _Entry(name, kind, header, data, size)
        header, long_name, pax = offset, "", {}


def _extension(
    read_at: ReadAt, kind: bytes, data: int, size: int, long_name: str, pax: dict[str, str]
) -> tuple[str, dict[str, str]]:
    """Long name and PAX records after reading one extension header."""
    if size > _MAX_EXTENSION_BYTES:
        raise ShardError(f"an extended header at byte {data} claims {size} bytes")
    content = bytes(read_at(data, size))
    if kind == b"L":
        return content.partition(b"\0")[0].decode("utf-8", "surrogateescape"), pax
    if kind == b"x":
        return long_name, pax | _pax_records(content, data)
    return long_name, pax


def _pax_records(content: bytes, offset: int) -> dict[str, str]:
    """``path`` and ``size`` from PAX records, ``LENGTH KEY=VALUE\\n`` each."""
    records: dict[str, str] = {}
    at = 0
    while at < len(content) and content[at] != 0:
        space = content.find(b" ", at, at + 21)
        digits = content[at : max(at, space)]
        stop = at + int(digits) if _COUNT.fullmatch(digits) else 0
        name, equals, value = content[space + 1 : max(0, stop - 1)].partition(b"=")
        if not equals or content[stop - 1 : stop] != b"\n":
            raise ShardError(f"damaged PAX header at byte {offset}")
        if name.startswith(b"GNU.sparse"):
            raise ShardError(f"sparse file at byte {offset}")
        if name in _PAX:
            records[name.decode()] = value.decode("utf-8", "surrogateescape")
        at = stop
    if not _COUNT.fullmatch(records.get("size", "0").encode("utf-8", "surrogateescape")):
        raise ShardError(f"damaged PAX header at byte {offset}: size={records['size']!r}")
    return records


def _require_harmless(name: str, offset: int) -> None:
    """Refuse a name that may do harm where somebody unpacks the tar, or prints the name."""
    if len(name) > _MAX_NAME:
        raise ShardError(f"the entry at byte {offset} has a name of {len(name)} characters")
    if _ABSOLUTE_OR_UP.match(name):
        raise ShardError(f"{name!r}, at byte {offset}, leads out of the folder of its tar: refused")
    if _CONTROL.search(name):
        raise ShardError(f"{name!r}, at byte {offset}, holds control characters: refused")


def _name(block: bytes | memoryview) -> str:
    name = bytes(block[:100]).split(b"\0", 1)[0]
    if bytes(block[257:263]) == b"ustar\0" and block[345]:
        name = bytes(block[345:500]).split(b"\0", 1)[0] + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _size(block: bytes | memoryview, offset: int) -> int:
    """Size field of a header whose checksum holds; octal, or base 256 for 8 GiB and more."""
    try:
        stored = int(bytes(block[148:156]).rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        stored = -1
    if stored != sum(block) - sum(block[148:156]) + 8 * 32:
        raise ShardError(f"damaged header at byte {offset}: its checksum does not hold")
    field = bytes(block[124:136])
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big", signed=field[0] == 0xFF)
    try:
        return int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        raise ShardError(f"damaged header at byte {offset}: size {field!r}") from None
