"""Limits of containers: the kernel's files in all their forms, and real cgroups where this machine lets us make one."""

import json
import os
from pathlib import Path

import pytest
from helpers import write_idx_folder

from mlp_workload.environment.cgroup import cpu_quota, memory_limit
from mlp_workload.environment.description import quota_cores, runnable_cores, usable_cores
from mlp_workload.errors import UserError
from mlp_workload.files import check_fits_memory

COLD = pytest.mark.long("imports a framework within a cgroup")

V2 = "24 1 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "34 25 0:29 / /sys/fs/cgroup/memory rw,relatime shared:10 - cgroup cgroup rw,memory"
DOCKER = "33 25 0:28 /docker/3f /sys/fs/cgroup/cpu,cpuacct ro,relatime - cgroup cgroup rw,cpu,cpuacct"
OTHERS = "\n".join(
    (
        "22 1 0:20 / /proc rw - proc proc rw",
        "30 25 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset",
        "31 25 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd",
    )
)
IN_V2 = "sys/fs/cgroup"
IN_V1 = "sys/fs/cgroup/cpu,cpuacct"


def plant(system, groups, mounts, files):
    """The files that Linux has, below the folder `system`."""
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": f"{OTHERS}\n{mounts}", **files}.items():
        (system / name).parent.mkdir(parents=True, exist_ok=True)
        (system / name).write_text(f"{text}\n")
    return system


def v1(folder, quota):
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "expected"),
    [
        ("0::/", V2, {f"{IN_V2}/cpu.max": "150000 100000"}, 1.5),
        ("0::/", V2, {f"{IN_V2}/cpu.max": "max 100000"}, None),
        ("0::/", V2, {f"{IN_V2}/cpu.max": "10000 20000"}, 0.5),
        ("0::/", V2, {}, None),
        (
            "0::/kube/pod/c",
            V2,
            {
                f"{IN_V2}/kube/cpu.max": "400000 100000",
                f"{IN_V2}/kube/pod/cpu.max": "100000 100000",
                f"{IN_V2}/kube/pod/c/cpu.max": "max 100000",
                f"{IN_V2}/kube/other/cpu.max": "10000 100000",
            },
            1.0,
        ),
        ("4:cpu,cpuacct:/\n3:cpuset:/", V1, v1(IN_V1, "50000"), 0.5),
        ("4:cpu,cpuacct:/\n3:cpuset:/", V1, v1(IN_V1, "-1"), None),
        ("4:cpu,cpuacct:/a/b", V1, v1(f"{IN_V1}/a", "200000") | v1(f"{IN_V1}/a/b", "-1"), 2.0),
        ("4:cpu,cpuacct:/docker/3f", DOCKER, v1(IN_V1, "100000"), 1.0),
        ("4:cpu,cpuacct:/docker/3f/d", DOCKER, v1(IN_V1, "300000") | v1(f"{IN_V1}/d", "100000"), 1.0),
        ("4:cpu,cpuacct:/elsewhere", DOCKER, v1(IN_V1, "100000"), 1.0),
        ("4:cpu,cpuacct:/../up", V1, v1("sys/fs/cgroup/up", "10000") | v1(IN_V1, "100000"), 1.0),
        ("4:cpu:/\n0::/s", f"{V1}\n{V2.replace(IN_V2, f'{IN_V2}/unified')}", v1(IN_V1, "150000"), 1.5),
        ("0::/a b:c", V2.replace("/cgroup rw", "/c\\040g rw"), {"sys/fs/c g/a b:c/cpu.max": "70000 100000"}, 0.7),
        ("", "", {}, None),
        ("0::/", V2, {f"{IN_V2}/cpu.max": "nonsense"}, None),
    ],
)
def test_the_cpu_quota_of_any_container(groups, mounts, files, expected, tmp_path):
    assert cpu_quota(plant(tmp_path, groups, mounts, files)) == expected


def test_a_system_without_cgroups_has_no_limits(tmp_path):
    assert cpu_quota(tmp_path) is memory_limit(tmp_path) is quota_cores(tmp_path) is None
    assert usable_cores(tmp_path) == runnable_cores()


@pytest.mark.parametrize(
    ("quota", "cores"), [(20_000, 1), (100_000, 1), (150_000, 1), (299_999, 2), (400_000, 4), (10**7, 4)]
)
def test_whole_cores_of_a_quota_round_down_to_one_at_least(quota, cores, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    plant(tmp_path, "0::/", V2, {f"{IN_V2}/cpu.max": f"{quota} 100000"})
    assert usable_cores(tmp_path) == cores
    assert quota_cores(tmp_path) == (None if cores == 4 else cores), "no quota that limits nothing"


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "expected"),
    [
        (
            "0::/pod/c",
            V2,
            {
                f"{IN_V2}/pod/memory.max": "4000",
                f"{IN_V2}/pod/memory.current": "3500",
                f"{IN_V2}/pod/memory.stat": "anon 1\ninactive_file 100\nactive_file 7",
                f"{IN_V2}/pod/c/memory.max": "2000",
                f"{IN_V2}/pod/c/memory.current": "100",
            },
            (4000, 600),
        ),
        ("0::/", V2, {f"{IN_V2}/memory.max": "max", f"{IN_V2}/memory.current": "5"}, None),
        (
            "5:memory:/a",
            V1_MEMORY,
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "70",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1000",
                "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "400",
                "sys/fs/cgroup/memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 50",
            },
            (1000, 650),
        ),
    ],
)
def test_the_memory_limit_with_the_least_left(groups, mounts, files, expected, tmp_path):
    assert memory_limit(plant(tmp_path, groups, mounts, files)) == expected


def test_a_file_has_to_fit_the_memory_limit(tmp_path):
    used = {f"{IN_V2}/memory.max": str(2**30), f"{IN_V2}/memory.current": "0"}
    plant(tmp_path, "0::/", V2, used)
    check_fits_memory(2**29, "file", tmp_path)
    with pytest.raises(UserError, match=r"^file: 0\.5 GiB, too large for a memory of 1\.0 GiB$"):
        check_fits_memory(2**29 + 1, "file", tmp_path)
    with pytest.raises(UserError, match=r"too large for a memory of"):
        check_fits_memory(2**50, "file", tmp_path / "no cgroups")


@pytest.fixture
def in_cgroup():
    """Makes the prefix of a command that runs on all cores, in a cgroup with a quota of so many us in 100 ms."""
    made = []

    def prefix(quota):
        group = Path(f"/sys/fs/cgroup/cpu/jax-mlp-test-{os.getpid()}-{len(made)}")
        try:
            group.mkdir()
            made.append(group)
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        except OSError as error:
            pytest.skip(f"needs to make a cgroup of version 1: {error}")
        enter = f'echo $$ > {group}/cgroup.procs && exec taskset --cpu-list 0-{(os.cpu_count() or 1) - 1} "$0" "$@"'
        return ["sh", "-c", enter]

    yield prefix
    for group in made:
        group.rmdir()


THREADS = """
import sys
from pathlib import Path
from mlp_workload.config import Config

side = sys.argv[1]
if side == "torch":
    import torch
    from reference_torch.device import find_device, product_threads
    device = find_device(Config(device="cpu"))
    seen = torch.get_num_threads()
else:
    from jax_mlp.device import find_device, product_threads
    device = find_device(Config(device="cpu"))
    seen = sum(path.read_text() == "tf_XLAEigen\\n" for path in Path("/proc/self/task").glob("*/comm"))
print(seen, product_threads(device))
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs a second device: another core")
@pytest.mark.parametrize(
    ("side", "quota", "variables", "threads"),
    [
        ("torch", 100_000, {}, 1),
        pytest.param("torch", 150_000, {"MKL_NUM_THREADS": "2"}, 2, marks=COLD),
        pytest.param("torch", 10**6, {}, None, marks=COLD),
        pytest.param("jax", 100_000, {}, 1, marks=COLD),
        ("jax", 100_000, {"NPROC": "1", "PJRT_NPROC": "2"}, 2),
    ],
)
def test_frameworks_take_as_many_threads_as_a_quota_allows(side, quota, variables, threads, in_cgroup, run, tmp_path):
    """A quota that limits nothing changes nothing, and what the user says holds."""
    (tmp_path / "threads.py").write_text(THREADS)
    unset = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC", "PJRT_NPROC"), "")
    result = run("threads", side, prefix=in_cgroup(quota), env=unset | variables)
    assert result.returncode == 0, result.stderr
    expected = (os.cpu_count() or 1) if threads is None else threads
    assert result.stdout.split() == [str(expected)] * 2


@COLD
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs a second device: another core")
def test_a_run_records_its_quota_and_threads(in_cgroup, run, digits, tmp_path):
    flags = ["--dataset", write_idx_folder(tmp_path, digits), "--batch-size", "20", "--epochs", "1", "--quiet"]
    result = run("jax_mlp.train", *flags, "--seeds", "2", "--run-dir", "many", prefix=in_cgroup(150_000))
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "many/seeds.json").read_text())
    assert content["at_once"] == 1
    recorded = content["environment"]
    assert (recorded["cpu_quota"], recorded["usable_cores"], recorded["threads"]) == (1.5, 1, 1)
    assert "NPROC" not in recorded["variables"], "nobody set it"
