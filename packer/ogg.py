"""Serial numbers of Ogg streams, which libsndfile draws at random."""

import zlib
from typing import IO

from shards.errors import DecodeError

_HEADER = 27  # bytes of a page before its table of segments
_SERIAL, _CHECKSUM = slice(14, 18), slice(22, 26)
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def set_serial(file: IO[bytes], serial: int) -> None:
    """Give all pages of an Ogg file of one stream a serial number of 32 bits, in place.

    Raises:
        DecodeError: if it is no Ogg file.
    """
    start = file.seek(0)
    while header := file.read(_HEADER):
        if header[:4] != b"OggS" or len(header) < _HEADER:
            raise DecodeError(f"no page of Ogg at byte {start}")
        table = file.read(header[26])
        page = header + table + file.read(sum(table))
        file.seek(start)
        start += file.write(renumbered(page, serial))


def renumbered(page: bytes, serial: int) -> bytes:
    """An Ogg page with another serial number, and the checksum that goes with it."""
    changed = bytearray(page)
    changed[_SERIAL] = serial.to_bytes(4, "little")
    changed[_CHECKSUM] = bytes(4)
    changed[_CHECKSUM] = checksum(changed).to_bytes(4, "little")
    return bytes(changed)


def checksum(data: bytes | bytearray) -> int:
    """CRC-32 of the polynomial 0x04c11db7 without reflection, from 0 (RFC 3533).

    zlib's is of the same polynomial, but takes and gives every bit mirrored, and inverts.
    """
    mirrored = zlib.crc32(data.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
