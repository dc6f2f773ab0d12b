"""The offline bundle's parts: index, sums, tar, and that every package a role installs is in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance.box import offline
from appliance.box.shell import BoxError

pytestmark = pytest.mark.unit

ROLES = Path(__file__).resolve().parents[2] / "ansible" / "roles"


def make_deb(folder: Path, name: str, depends: str = "") -> None:
    build = folder / "build"
    (build / "DEBIAN").mkdir(parents=True)
    (build / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n"
        + (f"Depends: {depends}\n" if depends else "") + "Description: for a test\n with a second line\n")
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", str(build), str(folder / f"{name}_1.0_all.deb")], check=True,
                   stdout=subprocess.DEVNULL)
    shutil.rmtree(build)


def apt(folder: Path, *words: str) -> str:
    """apt-get with the repository in `folder`/packages as its only source, and a system where nothing is installed."""
    state = folder / "state"
    (state / "lists/partial").mkdir(parents=True, exist_ok=True)
    (state / "archives/partial").mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    (folder / "sources.list").write_text(f"deb [trusted=yes] file:{folder}/packages ./\n")
    options = {"Dir::Etc::SourceList": folder / "sources.list", "Dir::Etc::SourceParts": "/dev/null",
               "Dir::State::status": state / "status", "Dir::State::Lists": state / "lists", "Dir::Cache": state,
               "Dir::Cache::archives": state / "archives", "APT::Sandbox::User": "root", "Debug::NoLocking": "1"}
    done = subprocess.run(["apt-get", *(word for key, value in options.items() for word in ("-o", f"{key}={value}")), *words],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.skipif(not shutil.which("apt-get"), reason="needs Debian's apt")
def test_apt_installs_from_the_index_alone(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    make_deb(packages, "school-bell", "school-clock (>= 1.0)")
    make_deb(packages, "school-clock")
    offline.write_index(packages)
    apt(tmp_path, "update")
    said = apt(tmp_path, "--simulate", "install", "school-bell")
    assert re.findall(r"^Inst (\S+)", said, re.MULTILINE) == ["school-clock", "school-bell"]


def test_an_empty_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BoxError, match="no package"):
        offline.write_index(tmp_path)


def test_the_index_says_where_a_file_is_and_how_to_check_it() -> None:
    entry = offline.index_entry("Package: a\nDescription: b\n c", "a_1%3a2_all.deb", 12, "ab" * 32)
    assert entry.endswith(f" c\nFilename: ./a_1%3a2_all.deb\nSize: 12\nSHA256: {'ab' * 32}\n")


def bundle(tmp_path: Path, architecture: str = "") -> Path:
    folder = tmp_path / "content"
    (folder / "packages").mkdir(parents=True)
    (folder / "bundle.json").write_text(json.dumps({"architecture": architecture or offline.architecture()}))
    (folder / "appliance-1.tar.gz").write_text("release")
    (folder / "images.tar.gz").write_text("images")
    (folder / "install").write_text("#!/bin/sh\n")
    (folder / "install").chmod(0o755)
    (folder / "packages/a.deb").write_text("deb")
    offline.write_sums(folder)
    offline.write_tar(folder, tmp_path / "bundle.tar")
    return tmp_path / "bundle.tar"


def test_a_bundle_is_known_by_its_first_member_and_opened_for_stage(tmp_path: Path) -> None:
    file = bundle(tmp_path)
    assert offline.is_bundle(file)
    with offline.opened(file, tmp_path / "near") as folder:
        assert {path.name for path in folder.iterdir()} == {
            "bundle.json", "appliance-1.tar.gz", "images.tar.gz", "install", "SHA256SUMS"}
    assert list((tmp_path / "near").iterdir()) == []


def test_the_sums_are_what_sha256sum_checks(tmp_path: Path) -> None:
    file = bundle(tmp_path)
    with tarfile.open(file) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out", check=True)
    assert (tmp_path / "out/install").stat().st_mode & 0o111


def test_a_damaged_bundle_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    file = bundle(tmp_path)
    file.write_bytes(file.read_bytes().replace(b"images\0", b"imagez\0", 1))
    with pytest.raises(BoxError, match=r"images\.tar\.gz in .* is damaged"), offline.opened(file, tmp_path):
        pass


@pytest.mark.parametrize("length", [0.3, 0.5, 0.7])
def test_a_bundle_that_breaks_off_is_refused(tmp_path: Path, length: float) -> None:
    file = bundle(tmp_path)
    whole = file.read_bytes().rstrip(b"\0")
    file.write_bytes(whole[:int(len(whole) * length)])
    assert offline.is_bundle(file)
    with pytest.raises(BoxError, match=r"breaks off|is damaged"), offline.opened(file, tmp_path / "near"):
        pass
    assert list((tmp_path / "near").iterdir()) == []


def test_a_bundle_of_another_architecture_is_refused(tmp_path: Path) -> None:
    file = bundle(tmp_path, "riscv64")
    with pytest.raises(BoxError, match="for riscv64, and this machine is"), offline.opened(file, tmp_path):
        pass


def test_what_tells_of_a_broken_copy_comes_first(tmp_path: Path) -> None:
    with tarfile.open(bundle(tmp_path)) as tar:
        assert tar.getnames()[:3] == ["bundle.json", "install", "SHA256SUMS"]


def test_too_little_room_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(BoxError, match="10 bytes are free at"), offline.opened(bundle(tmp_path), tmp_path / "near"):
        pass


@pytest.mark.parametrize("content", [b"", b"not a tar", b"\0" * 2048])
def test_other_files_are_no_bundle(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert not offline.is_bundle(tmp_path / "file")


@pytest.mark.parametrize("codename", ["bookworm", "trixie", "noble"])
def test_every_package_that_a_role_names_is_in_the_bundle(codename: str) -> None:
    named = {name for file in ROLES.glob("*/tasks/*.yml")
             for words in re.findall(r"appliance_packages: \[([^\]]+)\]", file.read_text()) for name in words.split(", ")}
    building = {"mmdebstrap", "debian-archive-keyring"}   # images are loaded
    assert named - building <= set(offline.packages_for(codename))


def test_the_start_script_is_a_shell_script(tmp_path: Path) -> None:
    (tmp_path / "install").write_text(offline.INSTALL)
    subprocess.run(["sh", "-n", str(tmp_path / "install")], check=True)
