"""Trains models that rate piano performances: ``python -m trainer --help``."""
