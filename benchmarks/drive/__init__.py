"""Training from a mounted Drive, by every way that there is: ``python -m benchmarks.drive``."""
