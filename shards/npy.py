"""Arrays as ``.npy`` bytes: read without trusting what their headers claim."""

import math
from functools import lru_cache
from io import BytesIO
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import DecodeError

Data = bytes | memoryview

# what numpy raises of a header, which it parses as Python's literals
_DAMAGED = (ValueError, KeyError, TypeError, OverflowError, RecursionError, SyntaxError, TokenError)


def npy_bytes(array: NDArray[Any]) -> bytes:
    """An array as the content of a file."""
    target = BytesIO()
    np.save(target, array, allow_pickle=False)
    return target.getvalue()


def npy_view(data: Data) -> NDArray[Any]:
    """The array of a ``.npy`` file, over its own bytes.

    Raises:
        DecodeError: if it is damaged, or holds Python objects, or arrays within arrays.
    """
    begin = _begin(data)
    dtype, fortran, shape = _npy_header(bytes(data[:begin]))
    if min(shape, default=0) < 0 or not dtype.itemsize:
        raise DecodeError(f"damaged npy header: {shape} {dtype}")
    if dtype.shape:
        raise DecodeError(f"npy declares {dtype} {shape}: arrays within arrays are not read")
    count = math.prod(shape)
    if len(data) - begin < count * dtype.itemsize:
        raise DecodeError(f"truncated: {len(data) - begin} bytes where {shape} {dtype} is declared")
    array = np.frombuffer(data, dtype=dtype, count=count, offset=begin)
    return array.reshape(shape, order="F" if fortran else "C")


def typed_npy_view(data: Data, *, dtype: type, columns: int | None = None) -> NDArray[Any]:
    """The array of a file that holds nothing else: (rows,), or (rows, columns).

    Raises:
        DecodeError: if the file is damaged, or holds another type or shape.
    """
    array = npy_view(data)
    width = () if columns is None else (columns,)
    fits = array.dtype == dtype and array.shape[1:] == width and array.flags.c_contiguous
    if not fits or array.ndim != 1 + len(width) or len(data) != _begin(data) + array.nbytes:
        due = f"{np.dtype(dtype)} [rows{''.join(f', {n}' for n in width)}]"
        raise DecodeError(f"npy declares {array.dtype} {array.shape}: {due} is due")
    return array


def _begin(data: Data) -> int:
    """Where the header says that the array begins."""
    if len(data) < 10 or bytes(data[:6]) != b"\x93NUMPY":
        raise DecodeError("not an npy file")
    wide = data[6] > 1
    return (12 if wide else 10) + int.from_bytes(data[8 : 12 if wide else 10], "little")


@lru_cache(maxsize=256)
def _npy_header(header: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    file = BytesIO(header)
    try:
        version = np.lib.format.read_magic(file)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = reader(file)
    except _DAMAGED as error:
        raise DecodeError(f"damaged npy header: {error}") from error
    if dtype.hasobject:
        raise DecodeError("npy of Python objects: refused")
    return dtype, fortran, shape
