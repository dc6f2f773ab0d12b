"""appliance offline-bundle: one file with everything a box without internet needs.

On that box: `tar xf FILE`, then `./install`, which is the playbook with nothing but the bundle as its source. The bundle
is made on a box, or on any machine of the same distribution and architecture with the release staged.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from appliance.box import release as releases
from appliance.box import shell
from appliance.box.paths import Paths, read_env
from appliance.box.shell import BoxError, say, step

# What the roles install, and what Ansible itself wants. With all they depend on, down to libc: a minimal system may have
# older versions than these were built with.
PACKAGES = (
    "btrfs-progs", "ca-certificates", "e2fsprogs", "iproute2", "iptables", "nftables", "prometheus", "prometheus-node-exporter",
    "python3", "python3-apt", "python3-venv", "restic", "sudo", "apparmor", "docker.io",
)
_COMPOSE = {"bookworm": ("docker-compose",), "trixie": ("docker-cli", "docker-compose", "docker-buildx"),
            "noble": ("docker-compose-v2",)}
ANSIBLE = "ansible-core>=2.19,<2.20"
_SUM_FILE = "SHA256SUMS"
_ROOM = 4 << 30
# Of a bundle's files the first, so that a copy that broke off can still say so.
_FIRST = ("bundle.json", "install", _SUM_FILE)
# What Ansible takes beside the unpacked bundle; for all the rest there is the playbook's own check.
_ROOM_TO_INSTALL_KIB = 300 << 10

INSTALL = """\
#!/bin/sh
# Turns this machine into a classroom box without the internet: everything comes from this folder.
#   ./install [OPTIONS OF ansible-playbook]        such as: ./install -e @my-settings.yml
set -eu
cd "$(dirname "$(readlink -f "$0")")"
fail() { echo "$*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "This installs packages and starts containers: run it as root, with sudo ./install."
. /etc/os-release
[ "${VERSION_CODENAME:-}" = @CODENAME@ ] ||
    fail "This bundle is for @CODENAME@, and this machine is ${PRETTY_NAME:-another system}. Make one on a machine like this."
[ "$(dpkg --print-architecture)" = @ARCHITECTURE@ ] ||
    fail "This bundle is for @ARCHITECTURE@, and this machine is $(dpkg --print-architecture)."
free=$(df --output=avail --block-size=1K . | tail -n 1)
[ -d .venv ] || [ "$free" -ge @ROOM@ ] ||
    fail "Only $((free / 1024)) MiB are free at $PWD; $((@ROOM@ / 1024)) MiB are needed. Make space, or unpack it elsewhere."
echo "Checking the bundle ..."
sha256sum --check --quiet SHA256SUMS ||
    fail "The bundle is damaged or was not copied to its end: copy it again, and unpack it into an empty folder."
mkdir -p apt/lists/partial apt/archives/partial
cat >apt.conf <<END
// The bundle is the only source; what this machine has of its own is neither read nor changed.
Dir::Etc::SourceList "$PWD/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "$PWD/apt/lists";
Dir::Cache::Archives "$PWD/apt/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Sandbox::User "root";
END
echo "deb [trusted=yes] file:$PWD/packages ./" >sources.list
# Over SSH the playbook is there already: --prepare FOLDER puts the checked bundle there, and that is all.
prepare=
if [ "${1:-}" = --prepare ]; then
    prepare=yes
    sed -i "s|$PWD/|$2/|" apt.conf sources.list
    rm -rf "$2"
    mv "$PWD" "$2"
    cd "$2"
fi
export APT_CONFIG="$PWD/apt.conf" DEBIAN_FRONTEND=noninteractive
# Here, because Ansible's module looks at the age of the system's own lists and may leave these unread.
apt-get -q update >install.log 2>&1 ||
    { tail -n 15 install.log >&2; fail "apt could not read the bundle's packages; the whole log is in $PWD/install.log."; }
[ -z "$prepare" ] || exit 0
if ! python3 -c 'import ensurepip, venv, apt' 2>/dev/null; then
    echo "Installing Python ..."
    apt-get -q install -y --no-install-recommends python3 python3-venv python3-apt >install.log 2>&1 ||
        { tail -n 15 install.log >&2; fail "Python could not be installed; the whole log is in $PWD/install.log."; }
fi
if ! .venv/bin/ansible-playbook --version >/dev/null 2>&1; then
    echo "Installing Ansible ..."
    { python3 -m venv --clear .venv &&
      .venv/bin/python -m pip install --disable-pip-version-check --no-index --find-links wheels @ANSIBLE@
    } >install.log 2>&1 ||
        { tail -n 15 install.log >&2; fail "Ansible could not be installed; the whole log is in $PWD/install.log."; }
fi
rm -rf source && tar -xzf appliance-*.tar.gz source
cat >bundle-settings.json <<END
{"images_source": "load", "images_archive": "$PWD/images.tar.gz", "preflight_offline": true,
 "appliance_environment": {"APT_CONFIG": "$PWD/apt.conf"}}
END
export ANSIBLE_CONFIG="$PWD/source/ansible/ansible.cfg" LC_ALL=C.UTF-8
exec .venv/bin/ansible-playbook -i source/ansible/inventories/local.yml source/ansible/site.yml -e @bundle-settings.json "$@"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, default=Path(),
                        help="where to write it: a file, or a folder (default: here)")
    parser.add_argument("--package", metavar="NAME", action="append", default=[], dest="packages",
                        help="a package more, with what it depends on; may be repeated")
    parser.add_argument("--image", metavar="NAME", action="append", default=[], dest="images",
                        help="an image more that students may use, or one of the release that this box itself does not use, "
                             "such as postgres; may be repeated")
    parser.add_argument("--for-upgrade", action="store_true",
                        help="only what “appliance upgrade” takes: the release and its images, without packages")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(paths: Paths, parsed: argparse.Namespace) -> int:
    """Make the bundle of the current release."""
    current = releases.Release.read(paths.current)
    if current is None:
        raise BoxError("There is no whole release here to make a bundle of.",
                       "Run the playbook on this machine first, or stage a release and switch to it.")
    system = System.here(paths)
    target = parsed.output
    if target.is_dir():
        kind = "upgrade" if parsed.for_upgrade else system.codename
        target = target / f"classroom-appliance-{current.version}-{kind}-{system.architecture}.tar"
    releases.ensure_room(target.absolute().parent, _ROOM, "write the bundle")
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=target.absolute().parent) as folder:
        images = images_for(paths, current, parsed.images)
        if not parsed.for_upgrade:
            fill_for_install(Path(folder), system, (*packages_for(system.codename), *parsed.packages))
        fill(paths, Path(folder), current, system, images)
        step("Writing it into one file …")
        write_tar(Path(folder), target)
    if parsed.json:
        shell.print_json({"file": str(target.resolve()), "id": current.id, "bytes": target.stat().st_size})
    else:
        what = f"{target} ({shell.size(target.stat().st_size)}) holds release {current.id} for "
        say(what + (f"boxes with the architecture {system.architecture}. There: sudo appliance upgrade {target.name}"
                    if parsed.for_upgrade else
                    f"{system.codename} on {system.architecture}. On the box: tar xf {target.name} && sudo ./install"))
    return 0


@dataclass(frozen=True)
class System:
    """What packages are made for."""

    codename: str
    architecture: str

    @classmethod
    def here(cls, paths: Paths) -> System:
        codename = read_env(paths.at("/etc/os-release")).get("VERSION_CODENAME", "")
        if codename not in _COMPOSE:
            raise BoxError(f"Bundles are made on Debian 12, Debian 13 and Ubuntu 24.04; this is {codename or 'none of them'}.",
                           "Make the bundle on a machine with the distribution of the box it is for.")
        return cls(codename, architecture())


def architecture() -> str:
    return shell.run(["dpkg", "--print-architecture"], timeout_s=30).stdout.strip()


def packages_for(codename: str) -> tuple[str, ...]:
    return (*PACKAGES, *_COMPOSE[codename])


def fill_for_install(folder: Path, system: System, packages: Iterable[str]) -> None:
    """Put into a bundle's folder what a machine without the program needs besides. Raises BoxError."""
    step("Fetching packages with all they depend on …")
    (folder / "packages").mkdir()
    fetch_packages(folder / "packages", packages)
    write_index(folder / "packages")
    step("Fetching Ansible …")
    fetch_wheels(folder / "wheels")
    install = INSTALL
    for name, value in (("CODENAME", system.codename), ("ARCHITECTURE", system.architecture),
                        ("ANSIBLE", f"'{ANSIBLE}'"), ("ROOM", str(_ROOM_TO_INSTALL_KIB))):
        install = install.replace(f"@{name}@", value)
    shell.write_file(folder / "install", install, 0o755)


def fill(paths: Paths, folder: Path, current: releases.Release, system: System, images: Mapping[str, str]) -> None:
    """Put the release and its images into a bundle's folder, and, as the last, the sums of all. Raises BoxError."""
    step("Packing the release …")
    _, release_id = releases.pack(paths.current.resolve() / "source", folder)
    if release_id != current.id:
        raise BoxError(f"The files of release {current.id} were changed on this machine; they are {release_id} now.",
                       "Stage the release again, then make the bundle.")
    step("Saving the images …")
    save_images(folder / "images.tar.gz", images)
    about = {"id": current.id, "version": current.version, "codename": system.codename, "architecture": system.architecture,
             "installs": (folder / "install").exists(), "made_at": datetime.now(UTC).isoformat(timespec="seconds")}
    shell.write_file(folder / "bundle.json", json.dumps(about, indent=2) + "\n")
    write_sums(folder)


# ---------------------------------------------------------------------------------------------------------- packages --
def fetch_packages(folder: Path, packages: Iterable[str]) -> None:
    """Download packages and everything they depend on, as if nothing at all were installed. Raises BoxError."""
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "status").touch()
        (folder / "partial").mkdir()
        # the system's own lists and keys are used, and its state is not: what is installed here says nothing of the box
        private = ["-o", f"Dir::State::status={scratch}/status", "-o", f"Dir::State::extended_states={scratch}/extended",
                   "-o", f"Dir::Cache::archives={folder}", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root",
                   "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]
        if shell.is_root():
            shell.run(["apt-get", "--quiet", "update"], timeout_s=600)
        done = shell.run(["apt-get", *private, "--quiet", "--yes", "--no-install-recommends", "--download-only", "install",
                          *dict.fromkeys(packages)], check=False, timeout_s=3600, env={"DEBIAN_FRONTEND": "noninteractive"})
    if not done.ok:
        raise BoxError(f"Packages could not be fetched: {done.words.removeprefix('E: ').rstrip('.')}.",
                       "Is the internet there? Try: apt-get update", evidence=done.stderr[-3000:])
    shutil.rmtree(folder / "partial", ignore_errors=True)
    (folder / "lock").unlink(missing_ok=True)


def write_index(folder: Path) -> None:
    """Write the flat repository's Packages out of the .deb files in a folder. Raises BoxError."""
    entries = []
    for file in sorted(folder.glob("*.deb")):
        control = shell.run(["dpkg-deb", "--field", file], timeout_s=60).stdout.strip("\n")
        entries.append(index_entry(control, file.name, file.stat().st_size, _sha256(file)))
    if not entries:
        raise BoxError("There is no package in the bundle.", "Is the internet there? Try: apt-get update")
    shell.write_file(folder / "Packages", "\n".join(entries))


def index_entry(control: str, name: str, size: int, sha256: str) -> str:
    """Return a package's stanza: its control fields, and where its file is and how to check it."""
    return f"{control}\nFilename: ./{name}\nSize: {size}\nSHA256: {sha256}\n"


def fetch_wheels(folder: Path) -> None:
    """Download Ansible for this distribution's Python. Raises BoxError."""
    with tempfile.TemporaryDirectory() as scratch:
        made = shell.run(["/usr/bin/python3", "-m", "venv", f"{scratch}/venv"], check=False, timeout_s=300)
        if not made.ok:
            raise BoxError("Python's venv is missing.", "Run: apt-get install python3-venv", evidence=made.stderr)
        # pip has a list of authorities of its own; a school's proxy is only on the system's
        bundle = Path("/etc/ssl/certs/ca-certificates.crt")
        authorities = {"PIP_CERT": str(bundle)} if bundle.exists() and "PIP_CERT" not in os.environ else {}
        done = shell.run([f"{scratch}/venv/bin/python", "-m", "pip", "download", "--disable-pip-version-check", "--quiet",
                          "--only-binary=:all:", "--dest", folder, ANSIBLE], check=False, timeout_s=1200, env=authorities)
    if not done.ok:
        raise BoxError(f"Ansible could not be fetched: {done.words.removeprefix('ERROR: ').rstrip('.')}.",
                       "Is the internet there, and is a proxy named in https_proxy?", evidence=done.stderr[-3000:])


# ------------------------------------------------------------------------------------------------------------- files --
def images_for(paths: Paths, current: releases.Release, more: Iterable[str] = ()) -> dict[str, str]:
    """Return the images of a bundle: the name each gets in it → its id here. Of the release those that this box runs.
    Raises BoxError."""
    wanted, others = set(releases.wanted_images(paths, paths.current / "source")), {}
    for name in more:
        if name in current.images:
            wanted.add(name)
        elif found := releases.image_id(name):
            others[name] = found
        else:
            raise BoxError(f"There is no image {name} on this machine.",
                           "“docker images” lists those there are. One of the release that this box does not use is made with: "
                           f"appliance stage {paths.current / 'source'} --also NAME")
    return {f"appliance/{name}:{current.id}": current.images[name] for name in sorted(wanted & set(current.images))} | others


def save_images(target: Path, images: Mapping[str, str]) -> None:
    """Write images into one archive, under the names by which `stage` knows them. Layers they share are in it once.
    Raises BoxError."""
    for name, image in images.items():
        if releases.image_id(name) != image:
            shell.run(["docker", "tag", image, name], timeout_s=60)
    # fast rather than small: the larger part hardly gets smaller
    with open(target, "wb") as out, subprocess.Popen(
            [shell.find("docker") or "docker", "save", *images], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as save:
        packed = subprocess.run([shell.find("gzip") or "gzip", "-1", "--no-name"], stdin=save.stdout, stdout=out, check=False)
        if save.stdout is not None:
            save.stdout.close()
    if save.returncode or packed.returncode:
        raise BoxError("The images could not be saved.", "Is there room on the disk, and does Docker answer?")


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of every file in a folder but itself, as sha256sum reads it."""
    lines = [f"{_sha256(file)}  {file.relative_to(folder)}" for file in _files(folder)]
    shell.write_file(folder / _SUM_FILE, "\n".join(lines) + "\n")


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != _SUM_FILE)


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_tar(folder: Path, target: Path) -> None:
    """Write a folder's files into a tar that is whole or not there; bundle.json is its first member, so that it is known."""
    first = {name: place for place, name in enumerate(_FIRST)}
    partial = target.with_name(f".{target.name}.partial")
    try:
        with tarfile.open(partial, "w") as tar:
            for file in sorted(folder.rglob("*"), key=lambda file: (first.get(file.name, len(first)), str(file))):
                tar.add(file, arcname=str(file.relative_to(folder)), recursive=False, filter=_by_root)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


# ----------------------------------------------------------------------------------------------------------- reading --
def is_bundle(file: Path) -> bool:
    """Whether a file is a bundle's tar. Reads its first member alone."""
    try:
        with tarfile.open(file) as tar:
            first = tar.next()
    except (tarfile.TarError, OSError, EOFError):
        return False
    return first is not None and first.name == "bundle.json"


@contextmanager
def opened(file: Path, near: Path) -> Iterator[Path]:
    """Yield a folder with a bundle's release and images, as `stage` takes it; nothing else is unpacked. `near`: a folder on
    the disk to use. Raises BoxError if it was damaged."""
    near.mkdir(mode=0o755, parents=True, exist_ok=True)
    releases.ensure_room(near, file.stat().st_size, "unpack the bundle")
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=near) as scratch:
        folder = Path(scratch)
        try:
            with tarfile.open(file) as tar:
                for entry in tar:
                    if entry.isfile() and "/" not in entry.name:
                        tar.extract(entry, folder, filter="data")
            made = json.loads((folder / "bundle.json").read_text())
            lines = (folder / _SUM_FILE).read_text().splitlines()
            sums = {path: digest for digest, path in (line.split("  ", 1) for line in lines) if "/" not in path}
        except (tarfile.TarError, EOFError, FileNotFoundError, ValueError) as error:
            raise BoxError(f"{file} breaks off before its end, or is damaged ({error}).", "Copy the bundle again.") from error
        for name, digest in sums.items():
            if not (folder / name).is_file() or _sha256(folder / name) != digest:
                raise BoxError(f"{name} in {file} is damaged.", "Copy the bundle again.")
        if made.get("architecture") != (here := architecture()):
            raise BoxError(f"This bundle is for {made.get('architecture')}, and this machine is {here}.",
                           "Take one that was made on a machine like this.")
        yield folder
