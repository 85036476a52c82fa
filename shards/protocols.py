"""Which package opens the URLs of a protocol, and how it is installed."""

from shards.errors import FetchError

_REQUIREMENTS = {
    "s3": "clavier-data[s3]",
    "s3a": "clavier-data[s3]",
    "gs": "clavier-data[gcs]",
    "gcs": "clavier-data[gcs]",
    "hf": "clavier-data[hf]",
    "http": "fsspec[http]",
    "https": "fsspec[http]",
}


def missing_package(url: str, error: ImportError) -> FetchError:
    """The error to raise where fsspec could not import what opens ``url``.

    It names the protocol and the pip line; of protocols that are not known here, fsspec's hint.
    """
    protocol = url.partition("://")[0]
    requirement = _REQUIREMENTS.get(protocol)
    if requirement is None:
        return FetchError(f"{url}: {protocol}:// needs a package that is not installed: {error}")
    return FetchError(
        f"{url}: {protocol}:// needs a package that cannot be imported "
        f"({error.__cause__ or error}); install it with: pip install '{requirement}'"
    )
