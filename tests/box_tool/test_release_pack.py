"""A release is its content: packed the same everywhere, unpacked whole or not at all. Images are a fake here."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.box import release, shell
from appliance.box.__main__ import main
from appliance.box.paths import Paths
from appliance.box.release import Release
from appliance.box.shell import BoxError, Result

pytestmark = pytest.mark.unit


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    shell.write_file(folder / "pyproject.toml", '[project]\nname = "x"\nversion = "1.2.3"\n')
    shell.write_file(folder / "appliance/__init__.py", "")
    shell.write_file(folder / "appliance/store/migrations/versions/0001_initial.py", "")
    shell.write_file(folder / "appliance/store/migrations/versions/0002_more.py", "")
    shell.write_file(folder / "images/build", "#!/bin/sh\n", 0o755)
    for name in ("hub", "traefik"):
        shell.write_file(folder / f"images/{name}/Dockerfile", "FROM scratch\n")
    (folder / "docs").mkdir()
    (folder / "docs/link.rst").symlink_to("../README.md")
    shell.write_file(folder / "README.md", "Wörds\n")
    return folder


class Images:
    """An engine's images by name and id."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.builds = 0
        self.stop_after = 99
        self.in_use: list[str] = []

    def build(self, paths: Paths, source: Path, names: Sequence[str]) -> None:
        for name in names:
            if self.builds == self.stop_after:
                raise BoxError("The images could not be built.", "Mend it.")
            self.builds += 1
            self.names[f"appliance/{name}:latest"] = f"sha256:{name}{self.builds}"

    def id(self, name: str) -> str:
        return name if name in self.names.values() else self.names.get(name, "")

    def run(self, argv: list[str], **more: object) -> Result:
        match argv[1:]:
            case ["tag", source, target]:
                self.names[target] = self.id(source)
            case ["image", "rm", name]:
                self.names.pop(name)
            case ["ps", *_]:
                return Result(0, "\n".join(f"c{number}" for number, _ in enumerate(self.in_use)))
            case ["container", "inspect", *_]:
                return Result(0, "\n".join(self.in_use))
            case ["info", *_]:
                return Result(0, "/")
            case _:
                raise AssertionError(argv)
        return Result(0)


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Images:
    made = Images()
    monkeypatch.setattr(release, "_build", made.build)
    monkeypatch.setattr(release, "image_id", made.id)
    monkeypatch.setattr(release, "_ROOM_TO_BUILD", 0)
    monkeypatch.setattr(shell, "run", made.run)
    return made


# -------------------------------------------------------------------------------------------------------------- pack --
def test_the_same_content_is_the_same_file_whenever_and_wherever(tree: Path, tmp_path: Path) -> None:
    first, release_id = release.pack(tree, tmp_path)
    assert first.name == f"appliance-{release_id}.tar.gz"
    assert release_id.startswith("1.2.3-")
    other = tmp_path / "other"
    shutil.copytree(tree, other, symlinks=True)
    for path in other.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1, 1))
            if path.is_file():
                path.chmod(0o775 if path.stat().st_mode & 0o100 else 0o664)
    shell.write_file(other / "appliance/__pycache__/x.pyc", "compiled")
    shell.write_file(other / "tests/test_x.py", "no part of a release")
    (other / "state").mkdir()
    second, second_id = release.pack(other, tmp_path / "second.tar.gz")
    assert second_id == release_id
    assert second.read_bytes() == first.read_bytes()
    with tarfile.open(first) as tar:
        entries = {entry.name: entry for entry in tar}
    assert entries["source/images/build"].mode == 0o755
    assert entries["source/docs/link.rst"].linkname == "../README.md"
    assert {(entry.uid, entry.uname, entry.mtime) for entry in entries.values()} == {(0, "root", 315532800)}
    assert not any("pyc" in name or "tests" in name for name in entries)


@pytest.mark.parametrize("change", ["content", "mode", "name", "version", "link"])
def test_any_change_is_another_release(tree: Path, change: str) -> None:
    before = release.id_of(tree, release.files(tree))
    match change:
        case "content":
            (tree / "README.md").write_text("Words\n")
        case "mode":
            (tree / "README.md").chmod(0o755)
        case "name":
            (tree / "appliance/__init__.py").rename(tree / "appliance/init.py")
            (tree / "appliance/__init__.py").touch()
        case "version":
            (tree / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1.2.4"\n')
        case "link":
            (tree / "docs/link.rst").unlink()
            (tree / "docs/link.rst").symlink_to("elsewhere")
    assert release.id_of(tree, release.files(tree)) != before


def test_of_a_checkout_only_what_is_tracked_is_packed(tree: Path) -> None:
    subprocess.run(["git", "init", "-q", tree], check=True)
    subprocess.run(["git", "-C", tree, "add", "."], check=True)
    (tree / "docs/notes.txt").write_text("not tracked")
    (tree / "README.md").write_text("changed, and taken as it is\n")
    names = release.files(tree)
    assert "docs/notes.txt" not in names
    assert "README.md" in names


def test_folders_that_are_no_program_are_refused(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "images/build").unlink()
    assert main(["pack", str(tree)], Paths(tmp_path)) == 1
    assert "is not this program's folder: there is no images/build in it" in capsys.readouterr().err
    assert main(["pack", str(tmp_path / "nowhere")], Paths(tmp_path)) == 1
    shell.write_file(tree / "images/build", "")
    (tree / "pyproject.toml").write_text('[project]\nversion = "../../etc"\n')
    assert main(["pack", str(tree)], Paths(tmp_path)) == 1
    assert "is not a version" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- stage --
def test_a_file_and_its_folder_are_the_same_release_with_pinned_images(tree: Path, tmp_path: Path, images: Images) -> None:
    paths = Paths(tmp_path / "box")
    file, release_id = release.pack(tree, tmp_path)
    assert release.stage(paths, file) == release_id
    assert release.stage(paths, tree) == release_id
    found = Release.read(paths.release(release_id))
    assert found is not None
    assert (found.schema, found.version, images.builds) == ("0002", "1.2.3", 2)
    assert found.images == {"hub": "sha256:hub1", "traefik": "sha256:traefik2"}
    env = (paths.release(release_id) / "release.env").read_text()
    assert "APPLIANCE_HUB_IMAGE=sha256:hub1\n" in env
    assert (paths.release(release_id) / "source/images/build").stat().st_mode & 0o777 == 0o755
    images.names["appliance/hub:latest"] = "sha256:later"
    assert images.id(f"appliance/hub:{release_id}") == "sha256:hub1"
    assert not paths.current.exists()


def test_an_interrupted_stage_is_ended_by_the_next(tree: Path, tmp_path: Path, images: Images) -> None:
    paths = Paths(tmp_path / "box")
    images.stop_after = 1
    with pytest.raises(BoxError, match="could not be built"):
        release.stage(paths, tree)
    assert release.staged(paths) == []
    (paths.releases / ".9.9-cccccccccccc.partial/source").mkdir(parents=True)  # of one that was killed
    images.stop_after = 99
    release_id = release.stage(paths, tree)
    assert [each.id for each in release.staged(paths)] == [release_id]
    assert [path.name for path in paths.releases.iterdir()] == [release_id]


def test_images_that_were_pruned_are_made_again(tree: Path, tmp_path: Path, images: Images) -> None:
    paths = Paths(tmp_path / "box")
    release_id = release.stage(paths, tree)
    images.names.clear()
    assert release.stage(paths, tree) == release_id
    assert images.builds == 4


def test_only_what_the_box_runs_is_made_and_more_when_it_comes_to_run_it(tree: Path, tmp_path: Path, images: Images) -> None:
    for name in ("hello", "postgres"):
        shell.write_file(tree / f"images/{name}/Dockerfile", "FROM scratch\n")
    paths = Paths(tmp_path / "box")

    def made() -> dict[str, str]:
        found = Release.read(paths.release(release.stage(paths, tree)))
        assert found is not None
        return dict(found.images)

    assert set(made()) == {"hub", "traefik"}
    shell.write_file(paths.env_file, "COMPOSE_PROFILES=postgres\n")
    hub = made()["hub"]
    assert set(made()) == {"hub", "postgres", "traefik"}
    assert made()["hub"] == images.id(f"appliance/hub:{release.stage(paths, tree)}") != ""
    before = images.builds
    assert made()["hub"] == hub
    assert images.builds == before
    assert "APPLIANCE_POSTGRES_IMAGE=" in (paths.release(release.stage(paths, tree)) / "release.env").read_text()
    # the playbook stages before it writes the configuration
    other = Paths(tmp_path / "other")
    found = Release.read(other.release(release.stage(other, tree, also=["postgres"])))
    assert found is not None
    assert set(found.images) == {"hub", "postgres", "traefik"}
    with pytest.raises(BoxError, match="no image pony"):
        release.stage(other, tree, also=["pony"])


def test_what_is_staged_is_not_yet_what_latest_means(tree: Path, tmp_path: Path, images: Images) -> None:
    paths = Paths(tmp_path / "box")
    first = release.stage(paths, tree)
    paths.current.symlink_to(f"releases/{first}")
    (tree / "README.md").write_text("new\n")
    second = release.stage(paths, tree)
    assert images.names["appliance/hub:latest"] == "sha256:hub1"
    assert images.names[f"appliance/hub:{second}"] == "sha256:hub3"


def tampered(tmp_path: Path, file: Path, name: str, content: bytes = b"", link: str = "") -> Path:
    """The same release with one entry more."""
    target = tmp_path / "tampered.tar.gz"
    with tarfile.open(file) as old, tarfile.open(target, "w:gz") as new:
        for entry in old:
            new.addfile(entry, old.extractfile(entry))
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        if link:
            entry.type, entry.linkname = tarfile.SYMTYPE, link
        new.addfile(entry, io.BytesIO(content))
    return target


@pytest.mark.parametrize(("name", "link", "sentence"), [
    ("source/appliance/extra.py", "", "was changed or damaged"),
    ("source/../../../escaped", "", "which no release does"),
    ("/etc/escaped", "", "which no release does"),
    ("source/docs/extra.rst", "/etc/passwd", "was changed or damaged"),
])
def test_a_release_that_was_tampered_with_is_refused(tree: Path, tmp_path: Path, images: Images, name: str, link: str,
                                                     sentence: str) -> None:
    paths = Paths(tmp_path / "box")
    bad = tampered(tmp_path, release.pack(tree, tmp_path)[0], name, b"" if link else b"import os\n", link)
    with pytest.raises(BoxError, match=sentence):
        release.stage(paths, bad)
    assert list(paths.releases.iterdir()) == []
    assert not list(tmp_path.rglob("escaped"))


def test_files_that_are_no_release_are_refused(tree: Path, tmp_path: Path, images: Images) -> None:
    paths = Paths(tmp_path / "box")
    file = release.pack(tree, tmp_path)[0]
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(file.read_bytes()[:-200])
    (tmp_path / "text").write_text("hello")
    for bad in (cut, tmp_path / "text"):
        with pytest.raises(BoxError, match="is damaged or not a release"):
            release.stage(paths, bad)
    with pytest.raises(BoxError, match="There is no"):
        release.stage(paths, tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BoxError, match="neither a folder of this program nor a bundle"):
        release.stage(paths, tmp_path / "empty")


def test_a_full_disk_is_said_before_anything_is_written(tree: Path, tmp_path: Path, images: Images,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1 << 20))
    paths = Paths(tmp_path / "box")
    with pytest.raises(BoxError, match=r"too little room to unpack a release: 1\.0 MiB are free"):
        release.stage(paths, tree)
    assert list(paths.releases.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------- old ones --
def releases(paths: Paths, images: Images, count: int) -> list[str]:
    made = []
    for number in range(count):
        release_id = f"1.{number}-{number:012x}"
        (paths.release(release_id) / "source").mkdir(parents=True)
        ids = {"hub": f"sha256:hub{number}", "base": "sha256:base"}
        shell.write_file(paths.release(release_id) / "release.json", json.dumps({
            "id": release_id, "version": f"1.{number}", "schema": "0001", "images": ids,
            "made_at": f"2026-01-{number + 1:02}T00:00:00+00:00"}))
        images.names |= {f"appliance/{name}:{release_id}": each for name, each in ids.items()}
        made.append(release_id)
    return made


def test_three_releases_are_kept_and_those_that_are_needed(tmp_path: Path, images: Images) -> None:
    paths = Paths(tmp_path)
    made = releases(paths, images, 7)
    paths.opt.mkdir(exist_ok=True)
    paths.current.symlink_to(f"releases/{made[0]}")   # somebody has gone far back
    paths.previous.symlink_to(f"releases/{made[6]}")
    images.in_use = ["sha256:hub2", "sha256:base"]    # a container still stands on the third; base is shared by all
    assert sorted(release.remove_old(paths)) == [made[1], made[3]]
    assert [each.id for each in release.staged(paths)] == [made[6], made[5], made[4], made[2], made[0]]
    assert f"appliance/hub:{made[1]}" not in images.names
    assert f"appliance/hub:{made[2]}" in images.names
    assert release.remove_old(paths) == []
