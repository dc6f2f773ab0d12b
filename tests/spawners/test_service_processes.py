"""Services as processes: what they get, what they print, how they end, and that they never outlive the Hub."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from appliance.errors import ServiceFailed
from appliance.ports import ServiceSpec, ServiceStart
from appliance.spawners import service_processes
from appliance.spawners.service_processes import ServiceProcesses

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def spec(*command: str, **more: object) -> ServiceSpec:
    return ServiceSpec("culler", "/services/culler/", {"WHO": "culler"}, command, **more)  # type: ignore[arg-type]


def python(program: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, "-u", "-c", textwrap.dedent(program), *words)


async def life(wanted: ServiceSpec) -> tuple[str, list[str], list[int]]:
    """Return how it ended, what it printed and its pids."""
    lines: list[str] = []
    pids: list[int] = []

    async def started(start: ServiceStart) -> None:
        pids.append(start.pid)

    with anyio.fail_after(20):
        return await ServiceProcesses().run(wanted, started, lines.append), lines, pids


def alive(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return fields[0] not in (b"Z", b"X")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def gone(*pids: int) -> None:
    with anyio.fail_after(10):
        while any(map(alive, pids)):
            await anyio.sleep(0.02)


async def until(check: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not check():
            await anyio.sleep(0.02)


async def test_a_service_is_told_who_it_is_and_no_secret_of_the_hub_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("APPLIANCE_SECRET", "of the Hub")
    how, lines, pids = await life(spec(*python("""
        import json, os
        print(json.dumps([dict(os.environ), os.getcwd(), os.getpid()]))
    """), cwd=str(tmp_path)))
    environment, cwd, pid = json.loads(lines[0])
    assert how == "with status 0"
    assert (environment["WHO"], cwd, [pid]) == ("culler", str(tmp_path), pids)
    assert "APPLIANCE_SECRET" not in environment
    assert environment["PATH"].endswith(f":{Path(sys.executable).parent}")


async def test_what_it_prints_arrives_line_by_line() -> None:
    _, lines, _ = await life(spec(*python("""
        import os, sys
        print("one"); print("two", file=sys.stderr)
        os.write(1, b"\\xff bytes\\r\\nlast without an end")
    """)))
    assert lines == ["one", "two", "\ufffd bytes", "last without an end"]


async def test_a_line_without_an_end_costs_no_memory() -> None:
    _, lines, _ = await life(spec(*python("print('x' * 10000)")))
    assert "".join(lines) == "x" * 10000
    assert max(map(len, lines)) <= service_processes.LONGEST_LINE


@pytest.mark.parametrize(("program", "how"), [
    ("import sys; sys.exit(3)", "with status 3"), ("import os; os.kill(os.getpid(), 9)", "by SIGKILL"),
    ("import os, signal; os.kill(os.getpid(), 15)", "by SIGTERM")])
async def test_how_it_ended_is_said(program: str, how: str) -> None:
    assert (await life(spec(*python(program))))[0] == how


async def test_what_cannot_be_started_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("not a program")
    for wanted, words in (
            (spec("no-such-program"), "there is no program “no-such-program”"),
            (spec(str(broken)), f"“{broken}” may not be run"),
            (spec("true", cwd="/no/such/folder"), "there is no folder /no/such/folder"),
            (spec("true", user="no-such-user"), "no system user “no-such-user”")):
        with pytest.raises(ServiceFailed) as caught:
            await life(wanted)
        assert words in caught.value.sentence


async def test_it_becomes_its_user_for_ever() -> None:
    nobody = pwd.getpwnam("nobody")
    if os.geteuid() != 0:
        with pytest.raises(ServiceFailed, match="the Hub may not become “nobody”"):
            await life(spec("true", user="nobody", cwd="/"))
        return
    _, lines, _ = await life(spec("/bin/sh", "-c", "id -u; id -g; id -G; echo $USER; grep ^Uid: /proc/self/status",
                                  user="nobody", cwd="/"))
    uid, gid = str(nobody.pw_uid), str(nobody.pw_gid)
    assert lines[:4] == [uid, gid, gid, "nobody"]
    assert lines[4].split()[1:] == [uid] * 4


async def test_one_that_prints_without_end_leaves_the_hub_its_time() -> None:
    count, waits = [0], list[float]()

    async def started(start: ServiceStart) -> None:
        pass

    def line(text: str) -> None:
        count[0] += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ServiceProcesses().run, spec(*python("while True: print('x')")), started, line)
        await until(lambda: count[0])
        for _ in range(40):
            began = anyio.current_time()
            await anyio.sleep(0.01)
            waits.append(anyio.current_time() - began)
        tasks.cancel_scope.cancel()
    assert count[0] < service_processes.MOST_BYTES_PER_S     # in a second or so, two bytes each
    assert sorted(waits)[20] < 0.05


FAMILY = """
    import os, signal, subprocess, sys, time
    def tell(pid):      # in one write: print does several, and those of two processes would mix
        os.write(1, b"pid %d\\n" % pid)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            tell(os.getpid())
            time.sleep(600)
        os._exit(0)
    signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(0)))
    tell(os.getpid())
    tell(child.pid)
    while True:
        time.sleep(600)
"""


def pids_in(lines: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in lines if line.startswith("pid ")]


async def test_ended_in_good_order_with_everything_it_started() -> None:
    lines: list[str] = []

    async def started(start: ServiceStart) -> None:
        pass

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ServiceProcesses().run, spec(*python(FAMILY)), started, lines.append)
        await until(lambda: len(pids_in(lines)) == 3)
        tasks.cancel_scope.cancel()
    assert not any(map(alive, pids_in(lines)))


async def test_one_that_does_not_want_to_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_processes, "STOP_TIMEOUT_S", 0.3)
    lines: list[str] = []

    async def started(start: ServiceStart) -> None:
        pass

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ServiceProcesses().run, spec(*python("""
            import os, signal, time
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print("pid", os.getpid(), flush=True)
            while True:
                print("x" * 1000, flush=True)
        """)), started, lambda line: lines.append(line) if len(lines) < 10 else None)
        await until(lambda: pids_in(lines))
        began = time.monotonic()
        tasks.cancel_scope.cancel()
    assert time.monotonic() - began < 5
    await gone(*pids_in(lines))


HUB = """
    import sys, textwrap, anyio
    from appliance.ports import ServiceSpec
    from appliance.spawners.service_processes import ServiceProcesses
    async def started(start): pass
    async def main():
        await ServiceProcesses().run(
            ServiceSpec("x", "/services/x/", {}, (sys.executable, "-u", "-c", textwrap.dedent(sys.argv[1]))), started,
            lambda line: print(line, flush=True))
    anyio.run(main, backend_options={"use_uvloop": True})
"""


def start_hub() -> tuple[subprocess.Popen[str], list[int]]:
    hub = subprocess.Popen([sys.executable, "-c", textwrap.dedent(HUB), FAMILY], stdout=subprocess.PIPE, text=True,
                           env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert hub.stdout is not None
    return hub, pids_in([hub.stdout.readline() for _ in range(3)])


async def test_kill_9_of_the_hub_leaves_no_orphan() -> None:
    hub, pids = start_hub()
    assert all(map(alive, pids))
    hub.kill()
    hub.communicate()
    await gone(*pids)


async def test_kill_9_of_what_watches_over_it_leaves_no_orphan_that_it_started_itself() -> None:
    lines: list[str] = []
    ended: list[str] = []

    async def started(start: ServiceStart) -> None:
        # its parent is the shim
        os.kill(parent_of(start.pid), signal.SIGKILL)

    with anyio.fail_after(15), suppress(ServiceFailed):
        ended.append(await ServiceProcesses().run(spec(*python("import time; time.sleep(600)")), started, lines.append))
    assert ended == ["by SIGKILL"]
