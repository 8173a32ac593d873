"""Memory that this process may still use: of the machine, and of the container that it is in.

Reference: Linux kernel, Documentation/filesystems/proc.rst (meminfo), admin-guide/cgroup-v2.rst (memory) and
admin-guide/cgroup-v1/memory.rst.
"""

from __future__ import annotations

from pathlib import Path

# Files of a control group: limit, use, and of the statistics the cached files, which are dropped when memory is needed.
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available_bytes(root: str = "/") -> int | None:
    """Returns the number of bytes; None if the system does not say.

    Args:
      root: The folder of `proc` and `sys`.
    """
    values = [_of_machine(Path(root, "proc/meminfo"))]
    for line in _read(Path(root, "proc/self/cgroup")).splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            values += _of_groups(Path(root, "sys/fs/cgroup"), group, _VERSION_2)
        elif "memory" in controllers.split(","):
            values += _of_groups(Path(root, "sys/fs/cgroup/memory"), group, _VERSION_1)
    return min((value for value in values if value is not None), default=None)


def _of_machine(meminfo: Path) -> int | None:
    for line in _read(meminfo).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _of_groups(root: Path, group: str, names: tuple[str, str, str]) -> list[int | None]:
    """Reads the limits of a group and of those around it; a container sees its own at the root."""
    folder = root / group.lstrip("/")
    return [_of_group(each, *names) for each in (folder, *folder.parents) if each == root or root in each.parents]


def _of_group(folder: Path, limit_name: str, use_name: str, cached_name: str) -> int | None:
    limit, use = _read(folder / limit_name).strip(), _read(folder / use_name).strip()
    if not limit.isdigit() or not use.isdigit():  # "max", or no such group
        return None
    statistics = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines())
    return max(0, int(limit) - int(use) + int(statistics.get(cached_name, 0)))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
