"""Which version of a file lies at a URL, as far as its file system tells."""

from collections.abc import Mapping
from typing import Any

# names that file systems have for what changes with a file's content
_VERSION = {"mtime", "etag", "last-modified", "lastmodified", "last_modified", "modified"}
_VERSION |= {"updated", "generation", "md5hash", "content-md5", "blob_id", "sha"}


def version_of(about: Mapping[str, Any]) -> dict[str, str]:
    """What a file system knows of a file's version, and not of links to it or readers of it."""
    return {name: str(about[name]) for name in sorted(about) if name.lower() in _VERSION}


def exact_version(about: Mapping[str, Any]) -> str:
    """Size and version of a file; empty if nothing tells its version."""
    version = version_of(about)
    # a file that is replaced within a tick of the clock is another one all the same
    version |= {name: str(about[name]) for name in ("ino", "created") if name in about and version}
    return repr([about.get("size"), version]) if version else ""
