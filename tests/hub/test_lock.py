"""One Hub a folder, and who holds it is said in words that are true in a container, too."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from appliance.hub.lock import HubLock

pytestmark = pytest.mark.unit


def test_the_second_hub_is_told_of_the_first(tmp_path: Path) -> None:
    with HubLock(tmp_path / "hub.json") as first:
        assert first.other is None
        first.write("http://box.school")
        with HubLock(tmp_path / "hub.json") as second:
            assert second.other is not None
            assert (second.other.pid, second.other.url) == (os.getpid(), "http://box.school")
            assert second.other.is_near
            assert second.other.where == f"process {os.getpid()}"
    with HubLock(tmp_path / "hub.json") as third:
        assert third.other is None


def test_a_number_of_another_container_is_nobody_here(tmp_path: Path) -> None:
    with HubLock(tmp_path / "hub.json") as first:
        first.write("http://box.school")
        said = json.loads((tmp_path / "hub.json").read_text())
        (tmp_path / "hub.json").write_text(json.dumps(said | {"pid": 7, "pid_space": "pid:[1]"}))
        with HubLock(tmp_path / "hub.json") as second:
            assert second.other is not None
            assert not second.other.is_near
            assert second.other.where == "process 7 of another container, or of the host"
