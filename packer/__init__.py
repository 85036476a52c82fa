"""Turns annotated recordings into shards: ``python -m packer --help``."""
