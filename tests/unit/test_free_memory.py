"""Memory that this process may still use, from the files of a machine and of its control groups."""

import pytest

from trainer_module.free_memory import available_bytes

MEMINFO = "MemTotal: 4000 kB\nMemFree: 10 kB\nMemAvailable:    3000 kB\n"
MACHINE = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n"}


def group(folder, limit, use, cached, names=("memory.max", "memory.current", "inactive_file")):
    return {
        f"{folder}/{names[0]}": f"{limit}\n",
        f"{folder}/{names[1]}": f"{use}\n",
        f"{folder}/memory.stat": f"anon 5\n{names[2]} {cached}\n",
    }


VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, None),
        (MACHINE, 3000 * 1024),
        (MACHINE | group("sys/fs/cgroup", "max", 10, 0), 3000 * 1024),
        (MACHINE | group("sys/fs/cgroup", 9000, 5000, 700), 4700),
        (MACHINE | group("sys/fs/cgroup", 9000, 9500, 0), 0),
        (MACHINE | group("sys/fs/cgroup", 10**15, 0, 0), 3000 * 1024),
        (
            {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/pods/a\n"}
            | group("sys/fs/cgroup/pods/a", "max", 10, 0)
            | group("sys/fs/cgroup/pods", 2000, 500, 0),
            1500,
        ),
        (
            {"proc/meminfo": MEMINFO, "proc/self/cgroup": "3:cpu:/a\n2:memory:/a\n"}
            | group("sys/fs/cgroup/memory/a", 7000, 1000, 50, VERSION_1),
            6050,
        ),
        # The name of the group is that outside of the container, which sees only its own.
        (
            {"proc/meminfo": MEMINFO, "proc/self/cgroup": "2:memory:/pods/a\n"}
            | group("sys/fs/cgroup/memory", 7000, 1000, 0, VERSION_1),
            6000,
        ),
    ],
)
def test_the_smallest_limit_counts(content, expected, tmp_path):
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_bytes(str(tmp_path)) == expected


def test_this_machine_has_memory():
    available = available_bytes()
    assert available is not None and available > 2**20
