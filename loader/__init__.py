"""Streams shards into training: ``make_pipeline`` makes batches of audio, MIDI and labels."""

from loader.build import make_pipeline
from loader.pipeline import Pipeline

__all__ = ["Pipeline", "make_pipeline"]
