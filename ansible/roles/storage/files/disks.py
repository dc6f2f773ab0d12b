"""disks.py JSON: brings folders and file systems of the box to the state the JSON object describes.

It is one program because each of its steps depends on what the one before found, and because it must be provable that
nothing with anything on it is ever formatted (tests/ansible/test_disks.py). Says what it did, a line each, or with
"check" what it would do; ends with a sentence and status 1 where it must not go on. Standard library, Python 3.11.
"""

import contextlib
import json
import os
import re
import stat
import subprocess
import sys
import time

MIB = 1024 * 1024
os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
os.environ["LC_ALL"] = "C.UTF-8"


class Refused(Exception):
    pass


class Box:
    def __init__(self, check):
        self.check = check
        self.changes = []

    def did(self, text):
        """Note a change; return whether it is to be made."""
        self.changes.append(text)
        return not self.check


def run(*words, ok=(0,)):
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode not in ok:
        raise Refused(f"“{' '.join(words)}” failed: {done.stderr.decode(errors='replace').strip()[-600:]}")
    return done.stdout.decode(errors="replace")


# ------------------------------------------------------------------------------------------------------------- looking --
def mounts():
    """Return mount point → (source, type); of several at one place the one that is seen."""
    found = {}
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            place = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), left.split()[4])
            found[place] = (right.split()[1], right.split()[0])
    return found


def signature(path):
    """Return (kind, label) of what is on a disk or in a file, read from itself; ("", "") if blkid finds nothing."""
    done = subprocess.run(["blkid", "--probe", "--output", "export", path], stdin=subprocess.DEVNULL,
                          capture_output=True, check=False)
    if done.returncode == 2 and not done.stdout:
        return "", ""
    if done.returncode:
        return "several kinds at once, or unreadable", ""
    values = dict(line.partition("=")[::2] for line in done.stdout.decode(errors="replace").splitlines())
    return values.get("TYPE") or values.get("PTTYPE") or "something", values.get("LABEL", "")


def refuse_unless_empty(path):
    """Raises Refused unless nothing at all is on `path`: no signature, no partitions, nobody using it, zeros at both ends."""
    remedy = f"Use an empty one; if nobody needs what is on it: wipefs --all {path} && " \
             f"dd if=/dev/zero of={path} bs=1M count=4"
    kind, label = signature(path)
    if kind:
        raise Refused(f"{path} is not empty: {kind}{f' (“{label}”)' if label else ''}. It was not touched. {remedy}")
    is_block = stat.S_ISBLK(os.stat(path).st_mode)
    name = os.path.basename(os.path.realpath(path))
    if is_block and os.path.isdir(f"/sys/class/block/{name}"):
        parts = [entry for entry in os.listdir(f"/sys/class/block/{name}") if entry.startswith(name)]
        holders = os.listdir(f"/sys/class/block/{name}/holders") if os.path.isdir(f"/sys/class/block/{name}/holders") else []
        if parts or holders:
            raise Refused(f"{path} has partitions or volumes ({', '.join(parts + holders)}). It was not touched. {remedy}")
    try:
        # of a disk that is mounted or part of anything, the kernel refuses the exclusive opening
        disk = os.open(path, os.O_RDONLY | (os.O_EXCL if is_block else 0))
    except OSError as error:
        raise Refused(f"{path} cannot be had for itself ({error.strerror}); somebody uses it. It was not touched.") from error
    try:
        end = os.lseek(disk, 0, os.SEEK_END)
        for place in (0, max(end - MIB, 0)):
            os.lseek(disk, place, os.SEEK_SET)
            if any(os.read(disk, MIB)):
                raise Refused(f"{path} is not empty: it has data of no known kind, perhaps encrypted. It was not touched. "
                              f"{remedy}")
    finally:
        os.close(disk)


def loop_of(path):
    """Return the loop device that is behind a file, "" if there is none."""
    return run("losetup", "--noheadings", "--output", "NAME", "--associated", path, ok=(0, 1)).split("\n")[0].strip()


# --------------------------------------------------------------------------------------------------------------- doing --
def ensure_folder(box, path, mode, owner=0, group=0):
    wanted = int(mode, 8)
    try:
        there = os.lstat(path)
    except FileNotFoundError:
        if box.did(f"made {path}"):
            os.makedirs(path, mode=0o755, exist_ok=True)
            os.chown(path, owner, group)
            os.chmod(path, wanted)
        return
    if not stat.S_ISDIR(there.st_mode):
        raise Refused(f"{path} is a link or a file where a folder should be.")
    if (there.st_uid, there.st_gid) != (owner, group) and box.did(f"{path} belongs to {owner}:{group}"):
        os.chown(path, owner, group)
    if stat.S_IMODE(there.st_mode) != wanted and box.did(f"{path} has mode {mode}"):
        os.chmod(path, wanted)


def ensure_file(box, path, size):
    """Make the file with all of its space taken, or make it larger; never smaller."""
    there = os.path.getsize(path) if os.path.exists(path) else 0
    if there >= size:
        return False
    free = os.statvfs(os.path.dirname(path) if os.path.isdir(os.path.dirname(path)) else "/")
    if size - there > free.f_bavail * free.f_frsize:
        raise Refused(f"{path} is to have {size // MIB} MiB, and there are only {free.f_bavail * free.f_frsize // MIB} MiB "
                      "free.")
    if box.did(f"{'made' if not there else 'grew'} {path}: {size // MIB} MiB"):
        temporary = path if there else f"{path}.new"
        with open(temporary, "r+b" if there else "wb") as file:
            os.chmod(temporary, 0o600)
            if not there:
                # on Btrfs: without copying each block anew at every change
                with contextlib.suppress(OSError):
                    subprocess.run(["chattr", "+C", temporary], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, check=False)
            os.posix_fallocate(file.fileno(), there, size - there)
            os.fsync(file.fileno())
        os.rename(temporary, path)  # a file that is there has all of its space, even after a run that was interrupted
    return bool(there)


def ensure_file_system(box, source, kind, label):
    """Make a file system on what is provably empty; what already holds ours stays. Raises Refused."""
    if not os.path.exists(source):
        if box.check:  # the file that would have been made
            box.did(f"made a {kind} file system on {source}")
            return
        raise Refused(f"There is no disk {source}; “lsblk” lists those that are there.")
    if signature(source) == (kind, label):
        return
    refuse_unless_empty(source)
    if box.did(f"made a {kind} file system on {source}"):
        # without discarding: a loop file would give its space back, which others could then fill
        if kind == "btrfs":
            run("mkfs.btrfs", "--quiet", "--nodiscard", "--label", label, source)
        else:
            run("mkfs.ext4", "-q", "-E", "nodiscard", "-L", label, "-m", "0", source)


def ensure_mounted(box, place, unit, source, kind):
    there = mounts().get(place)
    if there:
        if there[1] != kind:
            raise Refused(f"{place} is mounted from {there[0]} ({there[1]}), not from {source}. Unmount it, or say "
                          "storage_homes: mount.")
        return
    if os.path.isdir(place) and os.listdir(place):
        raise Refused(f"{place} holds files, which a file system mounted there would hide. Move them away, or say "
                      "storage_homes: directory to go on with them.")
    if box.did(f"mounted {place}"):
        os.makedirs(place, mode=0o755, exist_ok=True)
        run("systemctl", "daemon-reload")
        run("systemctl", "start", unit)
        if place not in mounts():
            raise Refused(f"{place} is not mounted, though {unit} was started; see: systemctl status {unit}")


def ensure_grown(box, place, source, kind):
    """Let the file system have all of the disk or file that it is on, while it is used."""
    device = os.path.realpath(mounts()[place][0])
    if os.path.isfile(source) and os.path.getsize(source) > device_size(device):
        run("losetup", "--set-capacity", device)
    has = file_system_size(place, device, kind)
    if device_size(device) - has < 64 * MIB:  # what a file system does not use at its end
        return
    if box.did(f"grew the file system at {place} from {has // MIB} to {device_size(device) // MIB} MiB"):
        if kind == "btrfs":
            run("btrfs", "filesystem", "resize", "max", place)
        else:
            run("resize2fs", device)


def device_size(device):
    disk = os.open(device, os.O_RDONLY)
    try:
        return os.lseek(disk, 0, os.SEEK_END)
    finally:
        os.close(disk)


def file_system_size(place, device, kind):
    if kind == "btrfs":
        found = re.search(r"size (\d+) used \d+ path", run("btrfs", "filesystem", "show", "--raw", place))
    else:
        said = run("dumpe2fs", "-h", device)
        return int(re.search(r"Block count:\s+(\d+)", said)[1]) * int(re.search(r"Block size:\s+(\d+)", said)[1])
    if found is None:
        raise Refused(f"The size of the file system at {place} cannot be read.")
    return int(found[1])


def ensure_quota(box, place):
    done = subprocess.run(["btrfs", "qgroup", "show", place], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if done.returncode and box.did(f"quotas are counted at {place}"):
        run("btrfs", "quota", "enable", place)
        for _ in range(100):  # counting what is there goes on behind our back
            done = subprocess.run(["btrfs", "qgroup", "show", place], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  check=False)
            if done.returncode == 0:
                break
            time.sleep(0.1)


def ensure_place(box, wanted):
    """One file system: {source, size, kind, label, place, unit, quota}. size 0: source is a disk."""
    source, kind, place = wanted["source"], wanted["kind"], wanted["place"]
    mounted = place in mounts()
    if wanted["size"]:
        ensure_folder(box, os.path.dirname(source), "0711")
        ensure_file(box, source, wanted["size"])
    if not mounted and source:
        ensure_file_system(box, source, kind, wanted["label"])
    if source:
        ensure_mounted(box, place, wanted["unit"], source, kind)
    elif mounts().get(place, ("", ""))[1] != kind:
        raise Refused(f"Nothing of the kind {kind} is mounted at {place}. Mount it there by /etc/fstab.")
    if place in mounts():  # not in a check of a box where it would only now be made
        if source:
            ensure_grown(box, place, source, kind)
        if wanted["quota"]:
            ensure_quota(box, place)


# ---------------------------------------------------------------------------------------------------- students' memory --
def ensure_slice(box, bytes_wanted):
    """Let the running machine hold the limit of appliance.slice, at once and without restarting anything."""
    limit = current_limit()
    if limit is not None and abs(limit - bytes_wanted) < MIB:
        return
    if box.did(f"all servers together may use {bytes_wanted // MIB} MiB"):
        run("systemctl", "daemon-reload")
        run("systemctl", "start", "appliance.slice")
        run("systemctl", "set-property", "--runtime", "appliance.slice", f"MemoryMax={bytes_wanted}")
        limit = current_limit()
        if limit is None or abs(limit - bytes_wanted) >= MIB:
            raise Refused(f"The limit of all servers' memory is {limit} bytes and not {bytes_wanted}: servers that run use "
                          "more now. Run the playbook again when fewer do, or lower appliance_memory_reserve.")


def current_limit():
    """Return the bytes that the kernel holds servers to, None if it does not hold them to any."""
    for path in ("/sys/fs/cgroup/appliance.slice/memory.max", "/sys/fs/cgroup/memory/appliance.slice/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                text = file.read().strip()
        except OSError:
            continue
        return None if text == "max" else int(text)
    return None


def main():
    wanted = json.loads(sys.argv[1])
    box = Box(wanted["check"])
    try:
        for folder in wanted["folders"]:
            ensure_folder(box, **folder)
        for place in wanted["places"]:
            ensure_place(box, place)
        for folder in wanted["folders_within"]:
            if os.path.isdir(folder["path"]) or not box.check:
                ensure_folder(box, **folder)
        ensure_slice(box, wanted["students_memory"])
    except (Refused, OSError) as error:
        print("\n".join(box.changes))
        sys.exit(str(error))
    print("\n".join(box.changes))


if __name__ == "__main__":
    main()
