"""The small parent of one process. A server's outlives the Hub, keeps its log within bounds and writes down how it ended.

Run as a script by an interpreter with `-I -S`, hence the standard library only. Reads one line of JSON from its standard
input, answers with one line on its standard output, {"shim", "pid", "started"} or {"error"}, and goes on in the
background. SIGTERM ends the server: politely, then after stop_timeout by force, with all its descendants.

A service's (“tied”) stays in the foreground instead: what the service prints follows on the standard output, and the end of
the standard input ends it in the same way. So it ends with the Hub, however that ends. Its exit status is the service's.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
import warnings  # noqa: F401 (os.execvpe imports it, when the user may not be allowed to read where Python is)
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CHUNK = 65536


def started(pid: int) -> int:
    """Return when a process began, in clock ticks since boot; with the pid it names one process for ever. 0: none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def become(uid: int, gid: int, groups: list[int]) -> None:
    """Turn this process into the user's for ever. Raises OSError, and never returns with a right too many."""
    if os.geteuid() == 0:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise PermissionError("the process could not become its user")
    if uid == 0:
        raise PermissionError("a server never runs as root")


def launch(job: dict[str, Any], output: int) -> tuple[int, str]:
    """Return (pid, ""), or (0, what went wrong)."""
    told, tell = os.pipe()  # closed by a successful exec
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            if job["uid"] is not None:
                become(job["uid"], job["gid"], job["groups"])
            if job.get("tied"):
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.umask(0o077)
            os.chdir(job["cwd"])
            os.execvpe(job["cmd"][0], job["cmd"], job["environment"])
        except BaseException as error:
            os.write(tell, f"{type(error).__name__}: {error}".encode()[:1000])
        os._exit(127)
    os.close(tell)
    with os.fdopen(told, "rb") as pipe:
        wrong = pipe.read().decode(errors="replace")
    if wrong:
        os.waitpid(pid, 0)
        return 0, wrong
    return pid, ""


class Log:
    """A file that is moved aside to NAME.1 when it is full; a disk that is full costs lines, not the server."""

    def __init__(self, path: str, most: int) -> None:
        self.path, self.most, self.size = path, most, 0
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        for begin in range(0, len(data), self.most):
            self._write(data[begin:begin + self.most])

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            if self.size + len(data) > self.most:
                os.replace(self.path, f"{self.path}.1")
                os.close(self.file)
                self.file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                self.size = 0
            self.size += os.write(self.file, data)


class Printed:
    """The standard output of a tied one; whoever read it may be gone."""

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(1, data):]


def kill_descendants() -> None:
    """End whatever the server left behind: as subreaper, this process becomes the parent of every orphan."""
    while True:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            for child in children(os.getpid()):
                os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def children(parent: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == parent:
                    found.append(int(name))
    return found


def watch_over(pid: int, job: dict[str, Any], source: int, log: Log | Printed) -> int:
    """Copy output until the process ends and return its exit code, negative for a signal."""
    wakeup, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(source, False)
    signal.set_wakeup_fd(wake)
    kill_at = [0.0]

    def stop(*_: object) -> None:
        kill_at[0] = kill_at[0] or time.monotonic() + job["stop_timeout"]
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, stop)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # what came before this line comes now
    sources = [wakeup, source, *([0] if job.get("tied") else [])]
    while True:
        left = max(0.0, kill_at[0] - time.monotonic()) if kill_at[0] else None
        if left == 0.0:
            os.kill(pid, signal.SIGKILL)
            left = 0.1
        ready, _, _ = select.select(sources, [], [], left)
        if wakeup in ready:
            os.read(wakeup, _CHUNK)
        if 0 in ready and not os.read(0, _CHUNK):
            sources.remove(0)
            stop()
        if source in ready:
            data = os.read(source, _CHUNK)
            log.write(data)
            if not data:
                sources.remove(source)  # closed by everybody, who may go on living
        while True:
            ended, status = os.waitpid(-1, os.WNOHANG)  # orphans too
            if ended == pid:
                with contextlib.suppress(BlockingIOError):
                    while data := os.read(source, _CHUNK):
                        log.write(data)
                return os.waitstatus_to_exitcode(status)
            if ended == 0:
                break


def main() -> None:
    job = json.loads(sys.stdin.readline())
    # signals wait until somebody can answer them
    signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGTERM, signal.SIGCHLD])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if job.get("tied"):
        sys.exit(tied(job))
    if os.fork():  # the Hub waits for this one, and the other is nobody's child
        os._exit(0)
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    log = Log(job["log"], job["log_bytes"])
    source, output = os.pipe()
    pid, wrong = launch(job, output)
    os.close(output)
    answer = {"error": wrong} if wrong else {"shim": os.getpid(), "shim_started": started(os.getpid()),
                                             "pid": pid, "started": started(pid)}
    if not wrong:
        # before the Hub hears of it: killed now, the next Hub still finds the process
        write_state(job, answer)
    print(json.dumps(answer), flush=True)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    if wrong:
        os._exit(0)
    code = watch_over(pid, job, source, log)
    kill_descendants()
    write_state(job, {**answer, "exit_code": code})


def tied(job: dict[str, Any]) -> int:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    source, output = os.pipe()
    pid, wrong = launch(job, output)
    os.close(output)
    print(json.dumps({"error": wrong} if wrong else {"pid": pid}), flush=True)
    if wrong:
        return 127
    code = watch_over(pid, job, source, Printed())
    kill_descendants()
    return code if code >= 0 else 128 - code


def write_state(job: dict[str, Any], more: dict[str, Any]) -> None:
    path, temporary = job["state_file"], job["state_file"] + ".new"
    with open(temporary, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        json.dump({**job["state"], **more}, file)
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
