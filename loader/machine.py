"""What this machine lets a process use: cores, memory, open files, a GPU."""

import math
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from loader.finding import Finding

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108, its size is asked, nothing is written
_NVIDIA = Path("/proc/driver/nvidia/version")

_NO_LIMIT = 2**60  # control groups of version 1 write a number of this order instead of "max"
_LOW_MEMORY = 2 * 10**9
_LOW_SHARED = 10**9
_LOW_FILES = 1024


def usable_cores(*, membership: Path = _MEMBERSHIP, cgroups: Path = _CGROUPS) -> int:
    """Cores that this process may keep busy: by affinity, and by its control groups' quota."""
    quota = cpu_quota(_read(membership), cgroups)
    allowed = len(os.sched_getaffinity(0))
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_quota(membership: str, cgroups: Path) -> float | None:
    """Seconds of processor time a second, the lowest of all groups around a process.

    Args:
        membership: what ``/proc/self/cgroup`` says, of either version of control groups.
        cgroups: where they are mounted.

    Returns:
        None where there is no limit.
    """
    quotas = []
    for group in _groups(membership, cgroups):
        words = _read(group / "cpu.max").split()
        words = words or [_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        if len(words) == 2 and all(word.isdigit() for word in words):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def memory_limit(membership: str, cgroups: Path) -> int | None:
    """Bytes that the groups around a process may use together; arguments as ``cpu_quota``'s."""
    limits = []
    for group in _groups(membership, cgroups):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(group / name)
            if text.isdigit() and int(text) < _NO_LIMIT:
                limits.append(int(text))
    return min(limits, default=None)


def memory_used(membership: str, cgroups: Path) -> int:
    """Bytes that the groups around a process use, the most of all; 0 where nobody tells."""
    names = ("memory.current", "memory.usage_in_bytes")
    found = (_read(group / name) for group in _groups(membership, cgroups) for name in names)
    return max((int(text) for text in found if text.isdigit()), default=0)


def free_memory() -> int:
    """Bytes of memory that are free, as far as the control groups allow; 0 if nobody tells."""
    free = _memory(_read(_MEMINFO)).get("MemAvailable", 0)
    membership = _read(_MEMBERSHIP)
    limit = memory_limit(membership, _CGROUPS)
    return free if limit is None else min(free, max(0, limit - memory_used(membership, _CGROUPS)))


def check_machine() -> Iterator[Finding]:
    """Cores, memory, shared memory and open files."""
    membership = _read(_MEMBERSHIP)
    quota = cpu_quota(membership, _CGROUPS)
    yield judge_cores(len(os.sched_getaffinity(0)), os.cpu_count() or 1, quota)
    yield judge_memory(_read(_MEMINFO), memory_limit(membership, _CGROUPS))
    yield judge_shared_memory(shutil.disk_usage(_SHARED_MEMORY).total)
    yield judge_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))


def judge_cores(allowed: int, present: int, quota: float | None) -> Finding:
    """Cores of the machine, those that the affinity allows, and a quota of processor time."""
    text = str(allowed) if allowed == present else f"{allowed} of the machine's {present}"
    if quota is not None and quota < allowed:
        text = f"{text}, used {quota:.4g} at a time by a limit on this control group"
    if min(allowed, quota or allowed) >= 2:
        return Finding("ok", "cores", text)
    remedy = "docker run --cpus=4 ... or srun --cpus-per-task=4 ..." if present > 1 else ""
    return Finding("warn", "cores", f"{text}: decoding and training share it", remedy)


def judge_memory(meminfo: str, limit_bytes: int | None) -> Finding:
    """What ``/proc/meminfo`` says, and the limit of the control group."""
    sizes = _memory(meminfo)
    if len(sizes) < 2:
        return Finding("warn", "memory", "the kernel does not tell how much is free")
    free, text = sizes["MemAvailable"], f"{sizes['MemTotal'] / 1e9:.1f} GB"
    if limit_bytes is not None and limit_bytes < sizes["MemTotal"]:
        free, text = min(free, limit_bytes), f"limited to {limit_bytes / 1e9:.1f} GB of its {text}"
    text = f"{free / 1e9:.1f} GB free; {text}"
    if free >= _LOW_MEMORY:
        return Finding("ok", "memory", text)
    return Finding("warn", "memory", text, "ps aux --sort=-rss | head  # who holds the rest")


def judge_shared_memory(size_bytes: int) -> Finding:
    """This loader's threads need none; worker processes of torch's DataLoader do."""
    text = f"{size_bytes / 1e9:.2f} GB"
    if size_bytes >= _LOW_SHARED:
        return Finding("ok", str(_SHARED_MEMORY), text)
    text += ": enough for this loader, too little for a DataLoader's worker processes"
    return Finding("warn", str(_SHARED_MEMORY), text, "docker run --shm-size=8g ...")


def judge_open_files(soft: int, hard: int) -> Finding:
    """Limits of this process, as ``getrlimit`` gives them."""
    unlimited = soft == resource.RLIM_INFINITY
    text = "unlimited" if unlimited else f"{soft} at once"
    if unlimited or soft >= _LOW_FILES:
        return Finding("ok", "open files", text)
    raised = 65536 if hard == resource.RLIM_INFINITY else hard
    return Finding("warn", "open files", text, f"ulimit -n {raised}")


def check_gpu() -> Iterator[Finding]:
    """Whether PyTorch computes on a GPU, if there is one."""
    try:
        import torch  # takes seconds, and what does not import is a finding here
    except (ImportError, OSError) as error:
        line = "pip install --force-reinstall torch"
        yield Finding("fail", "GPU", f"PyTorch does not import: {error}", line)
        return
    if not torch.cuda.is_available():
        driver = _read(_NVIDIA).partition("\n")[0]
        yield judge_no_gpu(torch.__version__, driver, cuda_build=torch.version.cuda is not None)
        return
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        text = f"{about.name}, {about.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
        torch.ones(1, device=f"cuda:{number}").sum().item()  # fails on a chip of another age
        yield Finding("ok", f"GPU {number}", text)


def judge_no_gpu(torch_version: str, driver: str, *, cuda_build: bool) -> Finding:
    """Where PyTorch finds no GPU: there is none, or it is a build that cannot use it.

    Args:
        driver: version line of NVIDIA's driver; empty where none is loaded.
    """
    if not driver:
        return Finding("ok", "GPU", f"none; PyTorch {torch_version}")
    if cuda_build:
        text = f"PyTorch {torch_version} cannot use the driver {driver}"
        return Finding(
            "fail", "GPU", text, "nvidia-smi  # is the driver older than PyTorch's CUDA?"
        )
    text = f"PyTorch {torch_version} is built without CUDA, and there is a driver: {driver}"
    return Finding("fail", "GPU", text, "pip install --force-reinstall torch  # a build for CUDA")


def _memory(meminfo: str) -> dict[str, int]:
    """All there is and what is available, in bytes, by the kernel's names."""
    lines = (line.partition(":") for line in meminfo.splitlines())
    wanted = ("MemTotal", "MemAvailable")
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in lines if name in wanted}


def _groups(membership: str, cgroups: Path) -> Iterator[Path]:
    """Folders of a process's control groups, and of all groups around them."""
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        top = cgroups / controllers
        group = top / path.lstrip("/")
        yield group
        while group != top and top in group.parents:
            group = group.parent
            yield group


def _read(path: Path) -> str:
    """What a file says; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
