"""Arrays as ``.npy`` bytes: read without trusting what their headers claim."""

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import DecodeError


def npy_bytes(array: NDArray[Any]) -> bytes:
    """An array as the content of a file."""
    target = BytesIO()
    np.save(target, array, allow_pickle=False)
    return target.getvalue()


def npy_view(data: bytes, *, dtype: type, columns: int | None = None) -> NDArray[Any]:
    """The array of a file, over its own bytes: (rows,), or (rows, columns).

    Raises:
        DecodeError: if the file is damaged, or holds another type or shape.
    """
    file = BytesIO(data)
    try:
        np.lib.format.read_magic(file)
        shape, fortran, found = np.lib.format.read_array_header_1_0(file)
    except (ValueError, EOFError) as error:
        raise DecodeError(f"npy does not decode: {error}") from error
    width = () if columns is None else (columns,)
    rows = shape[0] if len(shape) == 1 + len(width) else -1
    size = rows * (columns or 1) * found.itemsize
    if found != dtype or shape[1:] != width or fortran or size != len(data) - file.tell():
        due = f"{np.dtype(dtype)} [rows{''.join(f', {n}' for n in width)}]"
        raise DecodeError(f"npy declares {found} {shape}: {due} is due")
    return np.frombuffer(data, dtype=dtype, offset=file.tell()).reshape(shape)
