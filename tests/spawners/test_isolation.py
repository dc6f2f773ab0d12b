"""What a container reaches, tried from inside it, with Docker's own rules in place and without."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import docker
import pytest
from docker_box import IMAGE, clear, client, make_spawner, prepare_once, reach

from appliance.errors import EngineUnsuitable, IsolationUnproven
from appliance.ports import ServerSpec
from appliance.spawners.docker import DockerSpawner
from appliance.spawners.docker_container import PROBE
from appliance.spawners.docker_firewall import Firewall, remove_table
from appliance.spawners.docker_network import Bridge
from appliance.spawners.docker_probe import host_address

pytestmark = [pytest.mark.engine, pytest.mark.anyio]
NAME = "isoltest"
BRIDGE = f"br-{NAME}"
SUBNET = "10.201.3.0/24"
GATEWAY = "10.201.3.1"
TABLE = f"appliance_{NAME}"


@contextlib.contextmanager
def listening(host: str = "0.0.0.0") -> Iterator[int]:
    with socket.create_server((host, 0)) as door:
        yield door.getsockname()[1]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int, int]]:
    """The network of these tests; yields (where the spawners keep their files, the Hub's port, Traefik's port)."""
    clear(NAME)
    state_dir = tmp_path_factory.mktemp("state")
    with listening() as api, listening() as public:
        spawner = make(state_dir, api, public)
        anyio.run(prepare_once, spawner)
        yield state_dir, api, public
    clear(NAME)


def make(state_dir: Path, api: int, public: int) -> DockerSpawner:
    spawner = make_spawner(NAME, SUBNET, state_dir, cmd=["python3", "-m", "http.server", "8888"])
    spawner.hub_api_port, spawner.public_ports = api, (public,)
    return spawner


@pytest.fixture
async def spawner(box: tuple[Path, int, int]) -> AsyncIterator[DockerSpawner]:
    made = make(*box)
    yield made
    await made.close()
    clear(NAME, network=False)


async def start(spawner: DockerSpawner, tmp_path: Path, number: int) -> str:
    """Start a server and return its address."""
    spec = ServerSpec(f"s{number}", 1, f"user{number}", "", 30080 + number, tmp_path, f"/user/user{number}/",
                      f"10.201.3.{10 + number}", "", {})
    await spawner.start(spec)
    return spec.address


def host_reaches(address: str, port: int = 8888) -> bool:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            socket.create_connection((address, port), timeout=0.5).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def set_isolated(state: str) -> None:
    for port in Path(f"/sys/class/net/{BRIDGE}/brif").iterdir():
        run("bridge", "link", "set", "dev", port.name, "isolated", state)


@contextlib.contextmanager
def docker_s_rules_wiped() -> Iterator[None]:
    """Without Docker's rules about this test's own bridge, and with a policy that lets everything pass on it."""
    taken = [line.split() for line in run("iptables", "-S").splitlines() if BRIDGE in line and "DROP" in line]
    assert taken, "Docker has a rule that keeps containers apart"
    pass_all = ["FORWARD", "-i", BRIDGE, "-o", BRIDGE, "-j", "ACCEPT"]
    for rule in taken:
        run("iptables", "-D", *rule[1:])
    run("iptables", "-I", *pass_all)
    try:
        yield
    finally:
        run("iptables", "-D", *pass_all)
        for rule in taken:
            run("iptables", *rule)


async def test_servers_do_not_reach_each_other(spawner: DockerSpawner, tmp_path: Path) -> None:
    one, two = await start(spawner, tmp_path, 1), await start(spawner, tmp_path, 2)
    assert host_reaches(one)
    assert host_reaches(two)
    assert reach(NAME, "s1", (two, 8888), (two, 22), (one, 8888)) == {
        f"{two}:8888": "no", f"{two}:22": "no", f"{one}:8888": "open"}


@pytest.mark.parametrize("left", ["our table", "our isolated ports"])
async def test_nor_when_a_firewall_s_reload_has_wiped_docker_s_rules(
    spawner: DockerSpawner, tmp_path: Path, left: str,
) -> None:
    """Only rules about this test's own bridge are taken away, and each of our two layers holds alone."""
    one, two = await start(spawner, tmp_path, 1), await start(spawner, tmp_path, 2)
    assert host_reaches(one)
    assert host_reaches(two)
    with docker_s_rules_wiped():
        try:
            if left == "our table":
                set_isolated("off")
            else:
                remove_table(TABLE)
            assert reach(NAME, "s1", (two, 8888)) == {f"{two}:8888": "no"}
            # without either they do reach each other: this test tests something
            set_isolated("off")
            remove_table(TABLE)
            with anyio.fail_after(10):  # until the kernel asks again who has that address
                while reach(NAME, "s1", (two, 8888)) != {f"{two}:8888": "open"}:
                    await anyio.sleep(0.1)
        finally:
            await anyio.to_thread.run_sync(Firewall().apply, spawner.rules())


async def test_of_the_host_only_the_hub_s_api_and_the_front_door_are_reached(
    spawner: DockerSpawner, tmp_path: Path, box: tuple[Path, int, int],
) -> None:
    _, api, public = box
    await start(spawner, tmp_path, 1)
    host = host_address()
    with listening() as other, listening("127.0.0.1") as loopback:
        found = reach(NAME, "s1", (GATEWAY, api), (GATEWAY, public), (host, public), (GATEWAY, other), (host, other),
                      (host, api), ("172.17.0.1", other), (GATEWAY, loopback), (GATEWAY, 1), ("127.0.0.1", loopback))
    assert found == {
        f"{GATEWAY}:{api}": "open", f"{GATEWAY}:{public}": "open", f"{host}:{public}": "open",
        f"{GATEWAY}:{other}": "no", f"{host}:{other}": "no", f"{host}:{api}": "no", f"172.17.0.1:{other}": "no",
        f"{GATEWAY}:{loopback}": "no", f"{GATEWAY}:1": "no", f"127.0.0.1:{loopback}": "refused"}


@contextlib.contextmanager
def elsewhere(address: str, namespace: str = "apptestns") -> Iterator[None]:
    """A machine behind this one, with `address` and something that listens on port 80 of it."""
    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
    ip("netns", "add", namespace)
    try:
        ip("link", "add", "apptest0", "type", "veth", "peer", "name", "apptest1", "netns", namespace)
        ip("addr", "add", "10.201.30.1/30", "dev", "apptest0")
        ip("link", "set", "apptest0", "up")
        for words in (("addr", "add", "10.201.30.2/30", "dev", "apptest1"), ("link", "set", "apptest1", "up"),
                      ("link", "set", "lo", "up"), ("addr", "add", f"{address}/32", "dev", "lo"),
                      ("route", "add", "default", "via", "10.201.30.1")):
            ip("-n", namespace, *words)
        ip("route", "add", f"{address}/32", "via", "10.201.30.2")
        with subprocess.Popen(["ip", "netns", "exec", namespace, "python3", "-m", "http.server", "80"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                assert host_reaches(address, 80)
                yield
            finally:
                server.kill()
    finally:
        subprocess.run(["ip", "link", "del", "apptest0"], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


@pytest.mark.parametrize(("address", "reached"), [
    ("203.0.113.7", "open"),        # stands for the internet
    ("169.254.169.254", "no"),      # the cloud's metadata
    ("10.222.0.7", "no"), ("192.168.222.7", "no"), ("172.29.222.7", "no"), ("100.100.100.200", "no"),
])
async def test_the_internet_is_reached_and_private_networks_are_not(
    spawner: DockerSpawner, tmp_path: Path, address: str, reached: str,
) -> None:
    await start(spawner, tmp_path, 1)
    with elsewhere(address):
        assert reach(NAME, "s1", (address, 80)) == {f"{address}:80": reached}


async def test_an_allow_list_replaces_the_internet(spawner: DockerSpawner, tmp_path: Path) -> None:
    await start(spawner, tmp_path, 1)
    firewall = Firewall()
    spawner.allowed_egress = ["192.168.222.0/24"]
    try:
        await anyio.to_thread.run_sync(firewall.apply, spawner.rules())
        with elsewhere("192.168.222.7"):
            assert reach(NAME, "s1", ("192.168.222.7", 80)) == {"192.168.222.7:80": "open"}
        with elsewhere("203.0.113.7"):
            assert reach(NAME, "s1", ("203.0.113.7", 80)) == {"203.0.113.7:80": "no"}
    finally:
        spawner.allowed_egress = ["internet"]
        await anyio.to_thread.run_sync(firewall.apply, spawner.rules())


async def test_a_container_cannot_open_connections_without_end(
    spawner: DockerSpawner, tmp_path: Path, box: tuple[Path, int, int],
) -> None:
    await start(spawner, tmp_path, 1)
    spawner.max_connections = 5
    firewall = Firewall()
    try:
        await anyio.to_thread.run_sync(firewall.apply, spawner.rules())
        if not firewall.limited:
            pytest.skip("this kernel cannot count connections")
        said = run("docker", "exec", f"{NAME}-s1", "python3", "-c", (
            "import socket\nn, kept = 0, []\n"
            "for _ in range(12):\n"
            f"  try: kept.append(socket.create_connection(('{GATEWAY}', {box[2]}), timeout=0.2)); n += 1\n"
            "  except OSError: break\nprint(n)"))
        assert 1 <= int(said) <= 6
    finally:
        spawner.max_connections = 1000
        await anyio.to_thread.run_sync(firewall.apply, spawner.rules())


# -- the proof --------------------------------------------------------------------------------------------------------
async def test_the_proof_is_quick_and_leaves_nothing(spawner: DockerSpawner) -> None:
    await spawner.prepare()
    began = time.monotonic()
    await spawner.prepare()
    assert time.monotonic() - began < 5  # 1 s where nothing else runs
    with client() as engine:
        for _ in range(100):
            if not engine.containers(all=True, filters={"label": f"{PROBE}={NAME}"}):
                return
            await anyio.sleep(0.1)
    pytest.fail("a probe was left")


def leave_probe(engine: docker.APIClient, spawner: DockerSpawner) -> str:
    """Return the id of a probe that nobody looks after any more."""
    left = engine.create_container_from_config({
        "Image": IMAGE, "Cmd": ["sleep", "100"], "Labels": {PROBE: NAME}, "HostConfig": {"NetworkMode": NAME},
        "NetworkingConfig": {"EndpointsConfig": {NAME: {"IPAMConfig": {
            "IPv4Address": spawner.bridge.probe_addresses()[0]}}}}})["Id"]
    engine.start(left)
    return str(left)


async def test_probes_of_a_killed_hub_are_no_obstacle(spawner: DockerSpawner) -> None:
    with client() as engine:
        left = leave_probe(engine, spawner)
        await spawner.prepare()
        with pytest.raises(docker.errors.NotFound):
            engine.inspect_container(left)


async def test_no_probe_outlives_the_hub(box: tuple[Path, int, int]) -> None:
    """Nor “appliance stop --servers”, whose spawner has proven nothing."""
    spawner = make(*box)
    with client() as engine:
        left = leave_probe(engine, spawner)
        await spawner.close()
        with pytest.raises(docker.errors.NotFound):
            engine.inspect_container(left)


async def test_without_isolation_there_is_no_proof(
    spawner: DockerSpawner, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Our own rules are missing, so the probes reach a port of the host."""
    monkeypatch.setattr(Firewall, "apply", lambda self, rules: remove_table(rules.table))
    try:
        with pytest.raises(IsolationUnproven) as failed:
            await spawner.prepare()
        assert "reached" in failed.value.evidence
    finally:
        monkeypatch.undo()
        await spawner.prepare()


async def test_a_table_that_somebody_flushed_is_put_back(
    spawner: DockerSpawner, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("appliance.spawners.docker._GUARD_S", 0.2)
    await spawner.prepare()

    async def watch() -> None:
        async for _ in spawner.watch():
            pass

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        remove_table(TABLE)
        with anyio.fail_after(5):
            while TABLE not in run("nft", "list", "tables"):
                await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()


async def test_what_is_restarted_from_outside_is_isolated_again(spawner: DockerSpawner, tmp_path: Path) -> None:
    await start(spawner, tmp_path, 1)

    async def watch() -> None:
        async for _ in spawner.watch():
            pass

    def isolated() -> list[str]:
        return [(port / "isolated").read_text().strip()
                for port in Path(f"/sys/class/net/{BRIDGE}/brif").iterdir()]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await anyio.sleep(0.3)
        with client() as engine:
            await anyio.to_thread.run_sync(lambda: engine.restart(f"{NAME}-s1", timeout=0))
        with anyio.fail_after(5):
            while isolated() != ["1"]:
                await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()


# -- the network ------------------------------------------------------------------------------------------------------
async def test_a_network_that_vanished_is_made_again_by_a_start(spawner: DockerSpawner, tmp_path: Path) -> None:
    with client() as engine:
        engine.remove_network(NAME)
    await start(spawner, tmp_path, 1)
    assert host_reaches("10.201.3.11")


async def test_a_network_with_other_settings_is_refused_with_what_differs(
    spawner: DockerSpawner, box: tuple[Path, int, int],
) -> None:
    other = make_spawner(NAME, "10.201.4.0/24", box[0])
    try:
        with pytest.raises(EngineUnsuitable) as refused:
            await other.prepare()
        assert "subnet is 10.201.3.0/24, wanted 10.201.4.0/24" in refused.value.action
    finally:
        await other.close()


async def test_a_subnet_this_box_uses_already_is_refused(tmp_path: Path) -> None:
    other = make_spawner("collidingtest", SUBNET, tmp_path)
    try:
        with pytest.raises(EngineUnsuitable) as refused:
            await other.prepare()
        assert SUBNET in refused.value.action
    finally:
        await other.close()
        clear("collidingtest")


def test_the_last_addresses_are_docker_s_own() -> None:
    bridge = Bridge.parse(NAME, NAME, SUBNET)
    assert not set(bridge.addresses()) & {GATEWAY, "10.201.3.0", "10.201.3.255", *bridge.probe_addresses()}


