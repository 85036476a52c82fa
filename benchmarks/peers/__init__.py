"""The same clips through all that users would pick instead: ``python -m benchmarks.peers``."""
