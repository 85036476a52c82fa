"""The shard format, both ends of it: annotations, manifest, index, tar, keys and note tables."""
