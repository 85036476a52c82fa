"""The shard format, both ends of it: annotations, manifest, index, tar, keys and note tables."""

__version__ = "0.1.0"
