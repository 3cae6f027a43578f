"""CPU and memory limits of Linux cgroups, versions 1 and 2, as containers and schedulers set them.

Limits of all enclosing cgroups apply: each function reads the cgroup of the process and those above it that are
mounted. Without cgroups there are no limits. Formats: https://docs.kernel.org/admin-guide/cgroup-v2.html.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")
_GROUP = re.compile(r"^\d+:([^:]*):(.*)$", re.M)
"""Controllers and path: "4:cpu,cpuacct:/a" in version 1, "0::/a" in version 2."""
_MOUNT = re.compile(r"^\S+ \S+ \S+ (\S+) (\S+) .* - (cgroup2?) \S* (\S+)$", re.M)
"""Root within the hierarchy, mount point, version, and options, which name the controllers in version 1."""
_NUMBER = re.compile(r"^(\w+) (\d+)$", re.M)


def cpu_quota(system: Path = ROOT) -> float | None:
    """Returns the CPUs that the process may use on average, such as 1.5; None without a limit.

    `system` is the folder that holds `proc` and the mounts.
    """
    return min((quota for group in _groups("cpu", system) if (quota := _quota(group)) is not None), default=None)


def memory_limit(system: Path = ROOT) -> tuple[int, int] | None:
    """Returns the memory limit with the fewest bytes left, and the bytes left; None without a limit.

    The page cache of inactive files counts as left, because the kernel frees it first.
    """
    limits = (_memory(group) for group in _groups("memory", system))
    return min((limit for limit in limits if limit), key=lambda limit: limit[1], default=None)


def _groups(controller: str, system: Path) -> Iterator[Path]:
    """Yields the folders of the process's cgroup and of those above it, in each hierarchy with `controller`."""
    paths: dict[str, str] = {}
    for controllers, path in _GROUP.findall(_text(system / "proc/self/cgroup")):
        paths |= dict.fromkeys(controllers.split(","), path)
    for root, folder, kind, options in _MOUNT.findall(_text(system / "proc/self/mountinfo")):
        name = controller if kind == "cgroup" else ""
        if name not in paths or (name and name not in options.split(",")):
            continue
        root, folder = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), path) for path in (root, folder))
        own = PurePosixPath(paths[name])
        visible = own.is_relative_to(root) and ".." not in own.parts  # else it is not mounted
        below = own.relative_to(root) if visible else PurePosixPath()
        yield from (system / folder.lstrip("/") / part for part in (below, *below.parents))


def _quota(group: Path) -> float | None:
    text = _text(group / "cpu.max") or " ".join(_text(group / f"cpu.cfs_{part}_us") for part in ("quota", "period"))
    match [int(word) for word in text.split() if word.isdecimal()]:  # no limit is "max 100000" or "-1 100000"
        case [quota, period] if quota and period:
            return quota / period
    return None


def _memory(group: Path) -> tuple[int, int] | None:
    limit = _text(group / "memory.max") or _text(group / "memory.limit_in_bytes")
    used = _text(group / "memory.current") or _text(group / "memory.usage_in_bytes")
    # Without a limit version 1 has the largest number of pages, near 2**63 bytes.
    if not (limit.strip().isdecimal() and used.strip().isdecimal()) or int(limit) >= 2**62:
        return None
    parts = dict(_NUMBER.findall(_text(group / "memory.stat")))
    cache = parts.get("total_inactive_file") or parts.get("inactive_file") or 0  # version 1 has both; the total applies
    return int(limit), int(limit) - int(used) + int(cache)


def _text(path: Path) -> str:
    """Returns the text of one of the kernel's files; empty if it is missing or unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
