"""What `appliance uninstall` decides, from what it found. Nothing of this machine is touched: the root is a folder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from appliance.box import removal, shell, uninstall
from appliance.box.found import Container, Found, look
from appliance.box.paths import Paths
from appliance.box.shell import BoxError

pytestmark = pytest.mark.unit


def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "find", lambda program: None)
    monkeypatch.setattr(shell, "run", lambda *words, **options: shell.Result(127))


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A box's files below a folder, on a machine that has no programs at all."""
    no_programs(monkeypatch)
    paths = Paths(tmp_path)
    for file in ("etc/appliance/appliance.env", "etc/appliance/config.d/10-box.py", "etc/appliance/secrets/metrics_token",
                 "etc/systemd/system/appliance-backup.timer", "etc/systemd/system/appliance.slice",
                 "opt/appliance/releases/1/release.json", "usr/local/sbin/appliance", "usr/share/appliance/grafana.json",
                 "var/lib/appliance/jupyterhub.sqlite", "var/lib/appliance/homes/u20001/owner.json",
                 "etc/hosts", "etc/systemd/system/sshd.service"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    paths.installed_file.write_text(json.dumps({"packages": ["docker.io", "restic"]}))
    return paths


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    uninstall.add_arguments(parser)
    return parser.parse_args(words)


def do(paths: Paths, found: Found | None = None, **options: bool) -> uninstall.Plan:
    made = uninstall.plan(paths, found or look(paths), **options)
    for step in made.steps:
        step.do()
    return made


def files(paths: Paths) -> set[str]:
    return {str(file.relative_to(paths.root)) for file in paths.root.rglob("*") if file.is_file()}


def test_homes_stay_and_all_else_goes(paths: Paths) -> None:
    made = do(paths)
    assert files(paths) == {"var/lib/appliance/homes/u20001/owner.json", "etc/hosts", "etc/systemd/system/sshd.service"}
    assert any("homes" in line for line in made.stays)


def test_what_is_said_to_stay_is_all_that_stays(paths: Paths) -> None:
    (paths.backups).mkdir()
    (paths.backups / "config").write_text("")
    (paths.secrets / "restic_password").write_text("")
    made = do(paths)
    left = files(paths) - {"etc/hosts", "etc/systemd/system/sshd.service"}
    assert left == {"var/lib/appliance/homes/u20001/owner.json", "var/lib/appliance/backups/config",
                    "etc/appliance/secrets/restic_password"}
    said = [Path(line.split(" (")[0]) for line in made.stays]
    assert all(any((paths.root / name).is_relative_to(place) for place in said) for name in left)


def test_a_second_time_finds_nothing_but_what_stays(paths: Paths) -> None:
    do(paths)
    before = files(paths)
    do(paths)
    assert files(paths) == before


def test_homes_and_backups_go_when_told_twice(paths: Paths) -> None:
    paths.backups.mkdir()
    (paths.backups / "config").write_text("")
    made = do(paths, purge_homes=True)
    assert files(paths) == {"etc/hosts", "etc/systemd/system/sshd.service"}
    assert not paths.data.exists()
    assert not any("homes" in line or "backups" in line for line in made.stays)


@pytest.mark.parametrize("words", [("--purge-homes",), ("--yes-delete-all-homes",)])
def test_telling_once_changes_nothing(paths: Paths, words: tuple[str, ...]) -> None:
    before = files(paths)
    with pytest.raises(BoxError, match="told twice"):
        uninstall.run(paths, parsed("--yes", *words))
    assert files(paths) == before


def test_a_dry_run_changes_nothing_and_names_the_steps(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(paths)
    assert uninstall.run(paths, parsed("--dry-run")) == 0
    assert files(paths) == before
    said = capsys.readouterr().out
    assert said.startswith("Nothing is changed now. Without --dry-run:\nNo server is running.\n")
    assert "Step by step:\n  Ending appliance-backup.timer\n" in said


def test_what_is_counted_is_what_docker_shows(paths: Paths) -> None:
    """The engine keeps an image for each line of a Dockerfile; nobody sees them."""
    sentences = [step.sentence for step in uninstall.plan(paths, Found(images=("1", "2", "3"), listed_images=1)).steps]
    assert "Removing 1 image and what was left of building them" in sentences
    assert any("1 container that is not the box's uses it" in line for line in uninstall.plan(
        paths, Found(foreign_containers=1, installed={"packages": ["docker.io"]})).stays)


def test_nobody_there_to_ask_changes_nothing(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    before = files(paths)
    with pytest.raises(BoxError, match="asked"):
        uninstall.run(paths, parsed())
    assert files(paths) == before


def test_a_machine_without_a_box_has_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    no_programs(monkeypatch)
    assert uninstall.run(Paths(tmp_path), parsed("--yes")) == 0
    assert "nothing of the box" in capsys.readouterr().out


def test_the_hub_goes_before_the_servers_it_would_start_again(paths: Paths) -> None:
    found = Found(containers=(Container("appliance-x1", True, True), Container("appliance-traefik", True, False),
                              Container("appliance-hub", True, False)))
    sentences = [step.sentence for step in uninstall.plan(paths, found).steps if "container" in step.sentence]
    assert [sentence.split()[-1] for sentence in sentences] == ["appliance-hub", "appliance-traefik", "appliance-x1"]
    assert found.running_servers == 1


def test_an_engine_that_serves_others_stays(paths: Paths) -> None:
    found = Found(foreign_containers=2, installed={"packages": ["docker.io", "restic"]})
    made = uninstall.plan(paths, found, packages=True)
    assert not any("docker.io" in step.sentence for step in made.steps)
    assert any("restic" in step.sentence for step in made.steps)
    assert any("engine" in line for line in made.stays)


def test_an_engine_that_serves_others_keeps_its_settings(paths: Paths) -> None:
    daemon = paths.at("/etc/docker/daemon.json")
    assert any(str(daemon) in step.sentence for step in uninstall.plan(paths, Found(files=(daemon,))).steps)
    made = uninstall.plan(paths, Found(files=(daemon,), foreign_containers=1))
    assert not any(str(daemon) in step.sentence for step in made.steps)
    assert any(str(daemon) in line for line in made.stays)


def test_units_of_the_roles_go_whatever_they_are_called(paths: Paths) -> None:
    unit = paths.at("/etc/systemd/system/var-lib-appliance-homes.mount")
    unit.write_text("")
    paths.installed_file.write_text(json.dumps({"units": [unit.name]}))
    do(paths)
    assert not unit.exists()


def test_packages_stay_until_asked_for_and_are_named(paths: Paths) -> None:
    found = Found(installed={"packages": ["docker.io", "restic"]})
    made = uninstall.plan(paths, found)
    assert any("docker.io, restic" in line for line in made.stays)
    assert not any(step.sentence.startswith("Removing the packages") for step in made.steps)


def test_a_step_that_fails_does_not_keep_the_others(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(place: Path, **_: object) -> None:
        raise OSError("busy")

    monkeypatch.setattr(removal, "remove_tree", refuse)
    with pytest.raises(BoxError, match="1 of"):
        uninstall.run(paths, parsed("--yes"))
    assert not paths.opt.exists()
    assert paths.config.exists()


def test_only_the_boxs_lines_leave_fstab(paths: Paths) -> None:
    (paths.root / "etc/fstab").write_text("UUID=1 / ext4 defaults 0 1\n/x /var/lib/appliance/homes btrfs loop 0 0\n")
    do(paths)
    assert (paths.root / "etc/fstab").read_text() == "UUID=1 / ext4 defaults 0 1\n"
