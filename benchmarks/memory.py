"""What a process holds in memory, by /proc."""

from pathlib import Path

ANON, SHMEM = "RssAnon", "RssShmem"


def held_bytes(*kinds: str, process: int | str = "self") -> int:
    """Bytes of some kinds of memory; 0 once the process has ended.

    Args:
        kinds: ``ANON`` and ``SHMEM``, both if none is named: what is no file's, which the kernel
            may drop.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    sizes = {name: size for name, _, size in (line.partition(":") for line in lines)}
    return sum(
        1024 * int(sizes[kind].split()[0]) for kind in kinds or (ANON, SHMEM) if kind in sizes
    )
