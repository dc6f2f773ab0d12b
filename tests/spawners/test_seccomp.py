"""The filter of system calls that keeps students from making Btrfs subvolumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traitlets import TraitError

from appliance.errors import BadOption
from appliance.spawners.docker import DockerSpawner
from appliance.spawners.seccomp import conditions, load, without_btrfs

pytestmark = pytest.mark.unit
PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO", "archMap": [{"architecture": "SCMP_ARCH_X86_64"}],
    "syscalls": [{"names": ["read", "ioctl"], "action": "SCMP_ACT_ALLOW", "args": []},
                 {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}}],
}
FICLONE = 0x40049409


def allowed(number: int) -> bool:
    """As the kernel reads it."""
    return any((number & each["value"]) == each["valueTwo"] if each["op"] == "SCMP_CMP_MASKED_EQ"
               else number == each["value"] for each in conditions())


@pytest.mark.parametrize("number", [0x5000940E, 0x50009418, 0x50009401, 0x50009417, 0xD0009412, 0x15000940E])
def test_no_ioctl_of_btrfs_is_allowed(number: int) -> None:
    assert not allowed(number)


@pytest.mark.parametrize("number", [FICLONE, 0x4020940D, 0xC0189436])
def test_copying_by_reference_is_allowed(number: int) -> None:
    assert allowed(number)


@given(st.integers(0, (1 << 64) - 1))
def test_every_other_ioctl_is_allowed(number: int) -> None:
    assert allowed(number) or number >> 8 & 0xFF == 0x94


def test_the_rest_of_the_profile_is_as_it_was() -> None:
    rules = without_btrfs(PROFILE)["syscalls"]
    assert rules[0] == {**PROFILE["syscalls"][0], "names": ["read"]}  # type: ignore[dict-item, index]
    assert rules[-1] == PROFILE["syscalls"][1]  # type: ignore[index]
    assert {tuple(rule["names"]) for rule in rules[1:-1]} == {("ioctl",)}


@pytest.mark.parametrize("wrong", [
    "", "{", "[]", "{}", '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}',
    '{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["ioctl"], "action": "SCMP_ACT_ERRNO"}]}',
])
def test_what_is_no_such_profile_is_refused(tmp_path: Path, wrong: str) -> None:
    file = tmp_path / "profile.json"
    file.write_text(wrong)
    with pytest.raises(BadOption):
        load(str(file))
    with pytest.raises(TraitError, match="seccomp_profile"):
        DockerSpawner(seccomp_profile=str(file))
    with pytest.raises(TraitError, match="cannot be read"):
        DockerSpawner(seccomp_profile=str(tmp_path / "none.json"))


def test_a_spawner_gives_it_to_the_engine(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(PROFILE))
    spawner: Any = DockerSpawner(seccomp_profile=str(file))
    assert json.loads(spawner._seccomp) == without_btrfs(PROFILE)
