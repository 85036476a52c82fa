"""Streams WebDataset shards into PyTorch: an exact order, a cache on the local disk, threads."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loader.build import make_pipeline
    from loader.pipeline import Pipeline

__all__ = ["Pipeline", "make_pipeline"]


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch once it is asked for: commands that do not start at once."""
    if name == "make_pipeline":
        from loader.build import make_pipeline

        return make_pipeline
    if name == "Pipeline":
        from loader.pipeline import Pipeline

        return Pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
