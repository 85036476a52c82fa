"""Every error that data can cause, in one tree.

DataError
├── AnnotationError   a line of an annotation file
├── ManifestError     a manifest, its version or its options
├── ShardError        a tar or its index
├── DecodeError       a member that cannot be decoded
├── FetchError        a URL that cannot be read or written
│   └── CacheError    the cache's folder, likewise
└── StateError        a loader state that belongs to other data

A wrong argument is a ValueError instead, and a bug is an AssertionError: neither is in here.
"""


class DataError(Exception):
    """Something read from disk or network is not what it has to be."""


class AnnotationError(DataError):
    """An annotation is wrong; the message names file, line and key."""


class ManifestError(DataError):
    """A manifest is missing, damaged, of a newer version, or another dataset's."""


class ShardError(DataError):
    """A tar or its index is damaged or not a WebDataset shard."""


class DecodeError(DataError):
    """A member cannot be decoded; the message names the sample and what was tried."""


class FetchError(DataError):
    """A URL cannot be read or written; the message names it and the remedy."""


class CacheError(FetchError):
    """The folder of the cache cannot be written; the message names it and the remedy."""


class StateError(DataError):
    """A loader state was taken from other data or another order."""
