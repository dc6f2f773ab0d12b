"""appliance pack, stage: a release is this program's own files under a name made of their content, and its images.

`pack` makes one file out of a folder; `stage` puts it beside the one that runs and makes or loads its images. Both are
right when repeated: what is there stays, what was interrupted is finished. Only `switch` makes a release the current one.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from appliance.box import compose, shell
from appliance.box.paths import Paths
from appliance.box.shell import BoxError, say, step

# The product's own tree. Tests, benches and whatever else lies in a folder are no part of a release.
PARTS = ("CHANGELOG.md", "LICENSE", "README.md", "ansible", "appliance", "bootstrap", "compose.yaml", "compose.btrfs.yaml",
         "docs", "images", "pyproject.toml", "traefik")
NEEDED = ("appliance/__init__.py", "images/build", "pyproject.toml")
_LEFT_OUT = {"__pycache__", ".venv", ".git", "_build", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
_LEFT_OUT_ENDINGS = (".pyc", ".egg-info", ".swp", "~")
_EPOCH = 315532800           # 1980: the oldest time that every archive's format can hold
KEEP = 3
_EXAMPLES = ("hello",)       # images that show what can be done; no box runs them
_ID = re.compile(r"[0-9][0-9A-Za-z._]*-[0-9a-f]{12}")
# A release's images, with room for one more of each layer while it is written.
_ROOM_TO_BUILD, _ROOM_TO_UNPACK = 4 << 30, 200 << 20


@dataclass(frozen=True)
class Release:
    """What release.json says: a release that is whole."""

    id: str
    version: str
    schema: str                     # newest migration it knows
    images: Mapping[str, str]       # "hub" → "sha256:…"
    made_at: str

    @classmethod
    def read(cls, folder: Path) -> Release | None:
        """Return the release in a folder; None where it is not complete."""
        said = shell.read_json(folder / "release.json")
        try:
            return cls(str(said["id"]), str(said["version"]), str(said["schema"]), dict(said["images"]), str(said["made_at"]))
        except (KeyError, TypeError, ValueError):
            return None


# -------------------------------------------------------------------------------------------------------------- pack --
def files(source: Path) -> list[str]:
    """Return the product's own files below a folder, sorted: the tracked ones of a git checkout, else all but caches."""
    tracked = _tracked(source)
    found = tracked if tracked is not None else _walk(source)
    chosen = sorted(name for name in found if name.split("/")[0] in PARTS and os.path.lexists(source / name))
    if missing := [name for name in NEEDED if name not in chosen]:
        raise BoxError(f"{source} is not this program's folder: there is no {missing[0]} in it.",
                       "Name the folder that holds pyproject.toml and images/build.")
    return chosen


def _tracked(source: Path) -> list[str] | None:
    if not (source / ".git").exists():
        return None
    result = shell.run(["git", "-c", "safe.directory=*", "-C", source, "ls-files", "-z"], check=False, timeout_s=60)
    return [name for name in result.stdout.split("\0") if name] if result.ok else None


def _walk(source: Path) -> list[str]:
    found = []
    for part in PARTS:
        top = source / part
        for path in [top, *top.rglob("*")] if top.is_dir() else [top]:
            name = path.relative_to(source)
            own = not _LEFT_OUT & set(name.parts) and not any(p.endswith(_LEFT_OUT_ENDINGS) for p in name.parts)
            if own and (path.is_symlink() or path.is_file()):
                found.append(name.as_posix())
    return found


def version_of(source: Path) -> str:
    try:
        version = str(tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise BoxError(f"{source / 'pyproject.toml'} names no version ({error}).",
                       "Take a complete folder of this program.") from None
    if not re.fullmatch(r"[0-9][0-9A-Za-z.+]*", version):
        raise BoxError(f"“{version}” in {source / 'pyproject.toml'} is not a version.", "Write it like 1.2.3.")
    return version


def schema_of(source: Path) -> str:
    """Return the newest migration of a tree."""
    names = (source / "appliance/store/migrations/versions").glob("[0-9]*.py")
    return max((path.name.split("_")[0] for path in names), default="")


def id_of(source: Path, names: list[str]) -> str:
    """Return VERSION-HASH: the same for the same names, content and modes, wherever and whenever. It is an image's tag too."""
    digest = hashlib.sha256()
    for name in names:
        path = source / name
        if path.is_symlink():
            head, body = f"link {name}", os.readlink(path).encode()
        else:
            head, body = f"file {_mode(path):o} {name}", path.read_bytes()
        digest.update(f"{head}\0{len(body)}\0".encode() + body)
    return f"{version_of(source).replace('+', '_')}-{digest.hexdigest()[:12]}"  # of a local version: no tag may hold a plus


def _mode(path: Path) -> int:
    return 0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644


def pack(source: Path, target: Path) -> tuple[Path, str]:
    """Write the release of a folder and return (its file, its id). `target`: a file, or a folder for appliance-ID.tar.gz."""
    source = source.resolve()
    names = files(source)
    release_id = id_of(source, names)
    if target.is_dir():
        target = target / f"appliance-{release_id}.tar.gz"
    raw = io.BytesIO()
    with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="", compresslevel=6) as packed, \
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, "release.id", f"{release_id}\n".encode())
        for name in names:
            path = source / name
            if path.is_symlink():
                _add(tar, f"source/{name}", b"", link=os.readlink(path))
            else:
                _add(tar, f"source/{name}", path.read_bytes(), mode=_mode(path))
    shell.write_file(target, raw.getvalue())
    return target, release_id


def _add(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644, link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.mtime, entry.mode, entry.uname, entry.gname = _EPOCH, mode, "root", "root"
    if link:
        entry.type, entry.linkname = tarfile.SYMTYPE, link
        tar.addfile(entry)
    else:
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))


# ------------------------------------------------------------------------------------------------------------- stage --
@contextmanager
def alone(paths: Paths) -> Iterator[None]:
    """Hold the lock of everything that changes releases. Raises BoxError while another one works."""
    paths.opt.mkdir(mode=0o755, parents=True, exist_ok=True)
    with open(paths.opt / "lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BoxError(f"Another command is changing the release at this moment ({file.read().strip() or 'unknown'}).",
                           "Wait for it to end, then try again.") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} since {datetime.now().astimezone():%H:%M:%S}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def stage(paths: Paths, what: Path, *, images: Path | None = None, also: Sequence[str] = ()) -> str:
    """Put a release beside the others, with its images, and return its id.

    `what`: a release's file, a folder of this program, or an unpacked bundle (a folder with the release's file and
    images.tar). `images`: an archive of `docker save` to load them from instead of building. `also`: images to make that
    the configuration of now does not ask for. Raises BoxError.
    """
    with alone(paths):
        return stage_locked(paths, what, images=images, also=also)


def stage_locked(paths: Paths, what: Path, *, images: Path | None = None, also: Sequence[str] = ()) -> str:
    if not what.exists():
        raise BoxError(f"There is no {what}.", "Name a release's file or a folder of this program.")
    if images is not None and not images.is_file():
        raise BoxError(f"There is no archive of images at {images}.", "Check the path given with --images.")
    if what.is_file():
        from appliance.box import offline

        if offline.is_bundle(what):
            with offline.opened(what, paths.opt) as folder:
                return stage_locked(paths, folder, images=images, also=also)
    paths.releases.mkdir(mode=0o755, parents=True, exist_ok=True)
    for left in paths.releases.glob(".*.partial"):  # of a run that was killed
        shutil.rmtree(left)
    if what.is_dir() and not (what / "pyproject.toml").exists():
        packed = sorted(what.glob("appliance-*.tar.gz"))
        if len(packed) != 1:
            raise BoxError(f"{what} is neither a folder of this program nor a bundle with one release in it.",
                           "Name a release's file or a folder that holds pyproject.toml.")
        found = next((what / name for name in ("images.tar", "images.tar.gz", "images.tar.zst") if (what / name).is_file()),
                     None)
        what, images = packed[0], images or found
    release_id = _unpack_folder(paths, what) if what.is_dir() else _unpack_file(paths, what)
    folder = paths.release(release_id)
    release, wanted = Release.read(folder), wanted_images(paths, folder / "source", also)
    if release is None or set(wanted) - set(release.images) or any(image_id(each) != each for each in release.images.values()):
        # incomplete, or of another configuration, or somebody has pruned its images
        _finish(paths, folder, images, wanted)
    return release_id


def _unpack_folder(paths: Paths, source: Path) -> str:
    source = source.resolve()
    names = files(source)
    release_id = id_of(source, names)
    if not (paths.release(release_id) / "source").is_dir():
        with _partial(paths, release_id) as partial:
            for name in names:
                target = partial / "source" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if (source / name).is_symlink():
                    target.symlink_to(os.readlink(source / name))
                else:
                    target.write_bytes((source / name).read_bytes())
                    target.chmod(_mode(source / name))
                    os.utime(target, (_EPOCH, _EPOCH))
            _verify(partial, release_id)
    return release_id


def _unpack_file(paths: Paths, file: Path) -> str:
    try:
        with tarfile.open(file) as tar:
            first = tar.next()
            member = tar.extractfile(first) if first is not None and first.name == "release.id" else None
            release_id = member.read(200).decode().strip() if member else ""
            if not _ID.fullmatch(release_id):
                raise BoxError(f"{file} is not a release of this program.",
                               "Make one with: appliance pack FOLDER")
            if not (paths.release(release_id) / "source").is_dir():
                with _partial(paths, release_id) as partial:
                    for entry in tar:
                        _extract(tar, entry, partial)
                    _verify(partial, release_id)
    except (tarfile.TarError, EOFError, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, gzip.BadGzipFile):
            raise BoxError(f"{file} could not be unpacked: {error.strerror}.",
                           "Check the free space below /opt and the file.") from error
        raise BoxError(f"{file} is damaged or not a release of this program ({error}).",
                       "Copy it again, or make it again with: appliance pack FOLDER") from error
    return release_id


def _extract(tar: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path) -> None:
    """Take plain files and links of a release; anything else was not written by `pack`."""
    parts = Path(entry.name).parts
    if entry.isdir() or entry.name == "release.id":
        return
    if parts[:1] != ("source",) or ".." in parts or not (entry.isfile() or entry.issym()):
        raise BoxError(f"The release holds “{entry.name}”, which no release does.", "Get it from where it was made again.")
    target = folder / entry.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise BoxError(f"The release holds “{entry.name}”, which leads out of it.", "Get it from where it was made again.")
    if entry.issym():
        target.symlink_to(entry.linkname)
        return
    content = tar.extractfile(entry)
    assert content is not None  # of a regular file there always is
    with content, open(target, "wb") as out:
        _copy(content, out)
    target.chmod(0o755 if entry.mode & stat.S_IXUSR else 0o644)
    os.utime(target, (_EPOCH, _EPOCH))


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    shutil.copyfileobj(source, target)


@contextmanager
def _partial(paths: Paths, release_id: str) -> Iterator[Path]:
    """Yield a folder that becomes the release's when the body ends well, in one step."""
    ensure_room(paths.releases, _ROOM_TO_UNPACK, "unpack a release")
    partial = paths.releases / f".{release_id}.partial"
    partial.mkdir(mode=0o755)
    try:
        yield partial
        shutil.rmtree(paths.release(release_id), ignore_errors=True)  # one without a source: a leftover
        partial.rename(paths.release(release_id))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _verify(folder: Path, release_id: str) -> None:
    source = folder / "source"
    found = id_of(source, files(source))
    if found != release_id:
        raise BoxError(f"The release says it is {release_id}, but what it holds is {found}: it was changed or damaged.",
                       "Get it from where it was made again.")


def ensure_room(folder: Path, needed: int, what: str) -> None:
    """Raises BoxError where a file system has not `needed` bytes left."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BoxError(f"There is too little room to {what}: {shell.size(free)} are free at {folder}, and "
                       f"{shell.size(needed)} are needed.",
                       "Free some space there, for example with “docker image prune”, then run the same command again.")


# ------------------------------------------------------------------------------------------------------------ images --
def image_names(source: Path) -> list[str]:
    return sorted(path.parent.name for path in (source / "images").glob("*/Dockerfile"))


def wanted_images(paths: Paths, source: Path, also: Sequence[str] = ()) -> list[str]:
    """Return the images that this box runs: no example, and PostgreSQL only where it keeps the database."""
    known = image_names(source)
    if unknown := sorted(set(also) - set(known)):
        raise BoxError(f"This release has no image {unknown[0]}.", f"It has: {', '.join(known)}.")
    unused = {*_EXAMPLES, *(() if compose.uses_postgres(paths) else ("postgres",))} - set(also)
    return [name for name in known if name not in unused]


def image_id(name: str) -> str:
    """Return the id of a local image, "" where there is none."""
    result = shell.run(["docker", "image", "inspect", "--format", "{{.Id}}", name], check=False, timeout_s=60)
    if not result.ok and "no such image" not in result.stderr.lower():
        raise BoxError(f"The Docker Engine does not tell of the image {name}: {result.words.rstrip('.')}.",
                       "If it does not run, start it: systemctl start docker")
    return result.stdout.strip() if result.ok else ""


def _finish(paths: Paths, folder: Path, archive: Path | None, wanted: Sequence[str]) -> None:
    """Make or load a release's images, pin those there are, and write release.env and, as the last, release.json."""
    source, release_id = folder / "source", folder.name

    def there() -> dict[str, str]:
        found = {name: image_id(f"appliance/{name}:{release_id}") for name in image_names(source)}
        return {name: found[name] for name in found if found[name]}

    ids = there()
    try:
        if archive is not None and set(wanted) - set(ids):
            step(f"Loading the images of {release_id} out of {archive} …")
            _load(archive)
            ids = there()
            if missing := [name for name in wanted if name not in ids]:
                raise BoxError(f"{archive} does not hold the image appliance/{missing[0]}:{release_id}.",
                               "Take the archive that was made with this very release, or build: leave --images away.")
        elif set(wanted) - set(ids):
            root = shell.run(["docker", "info", "--format", "{{.DockerRootDir}}"], timeout_s=60).stdout.strip()
            ensure_room(Path(root), _ROOM_TO_BUILD, "build the images")
            step(f"Building the images of {release_id} (those that changed) …")
            _build(paths, source, wanted)
            for name in wanted:
                shell.run(["docker", "tag", f"appliance/{name}:latest", f"appliance/{name}:{release_id}"], timeout_s=60)
            ids = there()
    finally:
        # `latest` is what the current release runs, and what a configuration may name; a release that waits is not it
        with contextlib.suppress(BoxError):
            name_latest(Release.read(paths.current))
    version = version_of(source)
    lines = [f"APPLIANCE_RELEASE={release_id}", f"APPLIANCE_VERSION={version}"]
    lines += [f"APPLIANCE_{name.upper().replace('-', '_')}_IMAGE={found}" for name, found in ids.items()]
    os.sync()  # after a power cut a release that says it is whole is whole
    shell.write_file(folder / "release.env", "\n".join(lines) + "\n")
    made = {"id": release_id, "version": version, "schema": schema_of(source), "images": ids,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds")}
    shell.write_file(folder / "release.json", json.dumps(made, indent=2) + "\n")


def _build(paths: Paths, source: Path, names: Sequence[str]) -> None:
    paths.log.mkdir(mode=0o750, parents=True, exist_ok=True)
    done = subprocess.run([sys.executable, str(source / "images/build"), *names], stdin=subprocess.DEVNULL, check=False,
                          stdout=sys.stderr, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "APPLIANCE_LOG_DIR": str(paths.log), "PYTHONDONTWRITEBYTECODE": "1"})
    if done.returncode != 0:
        raise BoxError("The images of the new release could not be built; the one that runs is untouched.",
                       "The last lines say why. When that is mended, run the same command again: it goes on from there.",
                       evidence=done.stderr[-4000:])


def _load(archive: Path) -> None:
    result = shell.run(["docker", "load", "--quiet", "--input", archive], check=False, timeout_s=3600)
    if not result.ok:
        raise BoxError(f"The images in {archive} could not be loaded: {result.words.rstrip('.')}.",
                       "Check the file and the free space of Docker's folder, then run the same command again.")


def name_latest(release: Release | None) -> None:
    """Let appliance/NAME:latest be a release's images."""
    for name, wanted in (release.images if release else {}).items():
        if image_id(f"appliance/{name}:latest") != wanted and image_id(wanted):
            shell.run(["docker", "tag", wanted, f"appliance/{name}:latest"], timeout_s=60)


# ---------------------------------------------------------------------------------------------------------- old ones --
def staged(paths: Paths) -> list[Release]:
    """Return the releases that are whole, the newest first."""
    found = [release for folder in paths.releases.glob("[0-9]*") if (release := Release.read(folder)) is not None]
    return sorted(found, key=lambda release: (release.made_at, release.id), reverse=True)


def linked(link: Path) -> str | None:
    """Return the id that `current` or `previous` leads to."""
    try:
        return Path(os.readlink(link)).name
    except OSError:
        return None


def remove_old(paths: Paths) -> list[str]:
    """Remove releases beyond the newest three with their images, and return their ids. Those that run, ran before, or
    under whose images a container still stands are kept."""
    releases = staged(paths)
    keep = {linked(paths.current), linked(paths.previous), *(release.id for release in releases[:KEEP])}
    old = [release for release in releases if release.id not in keep]
    if not old:
        return []
    listed = shell.run(["docker", "ps", "--all", "--quiet", "--no-trunc"], timeout_s=60).stdout.split()
    in_use = set(shell.run(["docker", "container", "inspect", "--format", "{{.Image}}", *listed], check=False,
                           timeout_s=60).stdout.split()) if listed else set()
    shared = {each for release in releases if release.id in keep for each in release.images.values()}
    removed = []
    for release in old:
        if (set(release.images.values()) - shared) & in_use:
            continue
        for name in release.images:
            shell.run(["docker", "image", "rm", f"appliance/{name}:{release.id}"], check=False, timeout_s=120)
        leaving = paths.releases / f".{release.id}.partial"  # in one step; the next `stage` ends what is killed here
        paths.release(release.id).rename(leaving)
        shutil.rmtree(leaving)
        removed.append(release.id)
    return removed


# ---------------------------------------------------------------------------------------------------------- commands --
def add_pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="FOLDER", type=Path, default=Path(__file__).resolve().parents[2],
                        help="a folder of this program (default: the one this command came from)")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, default=Path(),
                        help="where to write it: a file, or a folder (default: here)")
    parser.add_argument("--id", action="store_true", help="only print the release's id; write nothing")
    parser.add_argument("--json", action="store_true", help="for programs")


def run_pack(paths: Paths, parsed: argparse.Namespace) -> int:
    if not parsed.source.is_dir():
        raise BoxError(f"There is no folder {parsed.source}.", "Name a folder of this program.")
    if parsed.id:
        source = parsed.source.resolve()
        say(id_of(source, files(source)))
        return 0
    target, release_id = pack(parsed.source, parsed.output)
    if parsed.json:
        shell.print_json({"id": release_id, "file": str(target.resolve())})
    else:
        say(f"Packed release {release_id} into {target} ({shell.size(target.stat().st_size)}).")
    return 0


def add_stage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="RELEASE", type=Path, help="a release's file, a folder of this program, or a bundle's")
    parser.add_argument("--images", metavar="FILE", type=Path, help="load the images from this archive; do not build")
    parser.add_argument("--also", metavar="NAME", action="append", default=[],
                        help="make this image too, which the box does not use yet, such as postgres; may be repeated")
    parser.add_argument("--json", action="store_true", help="for programs")


def run_stage(paths: Paths, parsed: argparse.Namespace) -> int:
    before = {release.id: release for release in staged(paths)}
    release_id = stage(paths, parsed.what, images=parsed.images, also=parsed.also)
    changed = Release.read(paths.release(release_id)) != before.get(release_id)
    if parsed.json:
        shell.print_json({"id": release_id, "changed": changed})
    else:
        say(f"Release {release_id} {'is ready' if changed else 'was ready already'}; make it the current one with: "
            f"appliance switch {release_id}")
    return 0
