"""In which order a release's containers come: browsers wait for as little as can be, and nobody who works for anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.box import compose, shell
from appliance.box.compose import Container
from appliance.box.paths import Paths
from appliance.box.shell import BoxError, Result

pytestmark = pytest.mark.unit
TRAEFIK = Container("id", "sha256:traefik", True, "running", "healthy", 0, "2026-11-23T07:18:51.1Z")


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of compose, the options that all have left out."""
    said: list[str] = []

    def run(paths: Paths, *words: str, **options: Any) -> Result:
        said.append(" ".join(word for word in words if word not in ("--no-deps", "--no-build")))
        return Result(0)

    monkeypatch.setattr(compose, "run", run)
    monkeypatch.setattr(shell, "run", lambda argv, **options: Result(0, "0\n"))
    (tmp_path / "release").mkdir()
    (tmp_path / "release/release.env").write_text("APPLIANCE_HUB_IMAGE=sha256:hub\nAPPLIANCE_TRAEFIK_IMAGE=sha256:traefik\n")
    return said


def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traefik: Container | None) -> None:
    monkeypatch.setattr(compose, "inspect", lambda paths, service: traefik)
    compose.up(Paths(tmp_path), tmp_path / "release")


def test_where_traefik_stays_the_hub_waits_for_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    up(tmp_path, monkeypatch, TRAEFIK)
    assert calls == ["up --detach hub", "up --detach traefik holding", "up --no-start prepare"]


@pytest.mark.parametrize("traefik", [
    None, replace(TRAEFIK, image="sha256:older"), replace(TRAEFIK, running=False, status="exited")])
def test_a_traefik_that_starts_finds_everything_written(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[str], traefik: Container | None) -> None:
    up(tmp_path, monkeypatch, traefik)
    assert calls == ["up --detach prepare", "up --detach traefik", "up --detach hub holding"]


def test_nothing_is_started_after_a_preparation_that_failed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    monkeypatch.setattr(shell, "run", lambda argv, **options: Result(0, "1\n"))
    with pytest.raises(BoxError, match="could not prepare"):
        up(tmp_path, monkeypatch, None)
    assert calls == ["up --detach prepare"]
