"""The parts of DockerSpawner that need no engine."""

from __future__ import annotations

import inspect
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest
import requests
import urllib3
from traitlets import TraitError
from traitlets.config import Config

from appliance.domain.offers import ImageChoice
from appliance.errors import (
    ApplianceError,
    BadOption,
    DiskFull,
    EngineDown,
    EngineUnsuitable,
    ImageBroken,
    ImageMissing,
    ImageNotAllowed,
    NotFound,
    SpawnError,
)
from appliance.ports import ActualState, ServerSpec
from appliance.spawners import docker_container as containers
from appliance.spawners.cgroups import Reading
from appliance.spawners.docker import DockerSpawner
from appliance.spawners.docker_engine import ENGINE_ERRORS, AddressTaken, NetworkGone, translate
from appliance.spawners.docker_firewall import NOT_INTERNET, Rules, host_resolvers, parse_egress, table_name
from appliance.spawners.docker_network import Bridge, refuse_unsuitable
from appliance.spawners.log_lines import readable

pytestmark = pytest.mark.unit
SPEC = ServerSpec("k3f9", 2, "alice", "lab2", 20001, Path("/homes/u20001/home"), "/user/alice/lab2/", "10.77.0.7", "",
                  {"JUPYTERHUB_API_TOKEN": "secret"})


# -- errors -----------------------------------------------------------------------------------------------------------
def every_class(module: Any, base: type[Exception]) -> list[type[Exception]]:
    return [cls for _, cls in inspect.getmembers(module, inspect.isclass) if issubclass(cls, base)]


def instance_of(cls: type[Exception]) -> Exception:
    for count in range(1, 6):
        try:
            error = cls(*["the engine's words"] * count)
            str(error)
        except (TypeError, AttributeError, ValueError):
            continue
        return error
    error = cls.__new__(cls)  # two of urllib3's want a response
    error.__dict__.update(partial=1, expected=2, length=b"x", response=SimpleNamespace(tell=lambda: 0))
    return error


MAPPED: dict[str, type[ApplianceError]] = {
    "APIError": SpawnError, "NotFound": NotFound, "ImageNotFound": ImageMissing,
    "InvalidVersion": EngineUnsuitable, "TLSParameterError": EngineUnsuitable, "InvalidConfigFile": EngineUnsuitable,
    "DeprecatedMethod": EngineUnsuitable, "ContextException": EngineUnsuitable, "ContextNotFound": EngineUnsuitable,
    "ContextAlreadyExists": EngineUnsuitable, "MissingContextParameter": EngineUnsuitable,
    "InvalidArgument": BadOption, "InvalidRepository": BadOption, "NullResource": BadOption,
    "ContainerError": SpawnError, "BuildError": SpawnError, "ImageLoadError": SpawnError,
    "StreamParseError": EngineDown, "DockerException": EngineDown,
}


@pytest.mark.parametrize("cls", every_class(docker.errors, Exception), ids=lambda cls: cls.__name__)
def test_every_exception_of_docker_is_one_of_ours(cls: type[Exception]) -> None:
    assert issubclass(cls, ENGINE_ERRORS)
    assert type(translate(instance_of(cls))) is MAPPED[cls.__name__]


@pytest.mark.parametrize(
    "cls", [*every_class(requests.exceptions, requests.RequestException),
            *every_class(urllib3.exceptions, urllib3.exceptions.HTTPError)], ids=lambda cls: cls.__name__)
def test_every_exception_of_requests_and_urllib3_means_that_the_engine_is_down(cls: type[Exception]) -> None:
    assert issubclass(cls, ENGINE_ERRORS)
    assert type(translate(instance_of(cls))) is EngineDown


@pytest.mark.parametrize(("status", "words", "expected"), [
    (404, "No such image: x:latest", ImageMissing),
    (404, "network appliance not found", NetworkGone),
    (404, "No such container: x", NotFound),
    (500, "write /var/lib/docker/tmp: no space left on device", DiskFull),
    (500, "OCI runtime create failed: exec: \"nope\": executable file not found in $PATH", ImageBroken),
    (400, "No command specified", ImageBroken),
    (403, "Address already in use", AddressTaken),
    (409, "Conflict. The container name is already in use", SpawnError),
    (500, "something new", SpawnError),
])
def test_answers_of_the_engine_are_told_apart(status: int, words: str, expected: type[ApplianceError]) -> None:
    answer = requests.Response()
    answer.status_code = status
    cls = docker.errors.ImageNotFound if "image" in words else docker.errors.NotFound if status == 404 \
        else docker.errors.APIError
    error = translate(cls("failed", answer, words))
    assert type(error) is expected
    assert words in error.evidence


# -- what is asked for ------------------------------------------------------------------------------------------------
def made(**traits: Any) -> dict[str, Any]:
    spawner = DockerSpawner(**traits)
    return spawner._config(SPEC, spawner.resolve(""), extra_mounts=[])


def test_a_container_is_closed_up() -> None:
    config = made(mem_limit="2G", mem_guarantee="512M", cpu_limit=1.5)
    host = config["HostConfig"]
    assert config["User"] == "20001:20001"
    assert (host["CapDrop"], host["SecurityOpt"], host["Privileged"]) == (["ALL"], ["no-new-privileges"], False)
    assert (host["Memory"], host["MemorySwap"], host["MemoryReservation"]) == (2 << 30, 2 << 30, 512 << 20)
    assert (host["NanoCpus"], host["PidsLimit"], host["Init"]) == (1_500_000_000, 512, True)
    assert (host["AutoRemove"], host["RestartPolicy"]) == (False, {"Name": "no"})
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "2"}
    assert config["NetworkingConfig"] == {"EndpointsConfig": {"appliance": {"IPAMConfig": {"IPv4Address": "10.77.0.7"}}}}
    assert host["Mounts"] == [
        {"Type": "bind", "Source": "/homes/u20001/home", "Target": "/home/alice", "ReadOnly": False}]


def test_the_hub_s_environment_wins_over_the_admin_s() -> None:
    environment = made(environment={"JUPYTERHUB_API_TOKEN": "mine", "LANG": "de_DE.UTF-8", "HOME": "/elsewhere"})["Env"]
    assert set(environment) == {
        "JUPYTERHUB_API_TOKEN=secret", "LANG=de_DE.UTF-8", "HOME=/home/alice", "USER=alice", "LOGNAME=alice",
        "JUPYTER_IMAGE_SPEC=appliance/notebook:latest"}


def test_more_host_config_adds_and_cannot_loosen() -> None:
    host = made(extra_host_config={"shm_size": "1g", "extra_hosts": {"nas": "10.1.1.1"}, "init": False})["HostConfig"]
    assert (host["ShmSize"], host["Init"], host["CapDrop"]) == (1 << 30, False, ["ALL"])
    assert host["NetworkMode"] == "appliance"


@pytest.mark.parametrize("option", sorted(containers.FORBIDDEN_HOST_CONFIG))
def test_options_that_undo_the_isolation_are_refused(option: str) -> None:
    with pytest.raises(TraitError, match=option):
        DockerSpawner(extra_host_config={option: True})


@pytest.mark.parametrize("wrong", [
    {"namespace": "../x"}, {"namespace": ""}, {"subnet": "10.77.0.1/16"}, {"subnet": "fd00::/64"}, {"subnet": "x"},
    {"subnet": "10.0.0.0/30"}, {"allowed_egress": ["the moon"]}, {"volumes": {"/a": "b"}}, {"volumes": {"/a": {}}},
    {"image_options": {"x": {"prot": 1}}}, {"profile_list": [{"name": "A"}]}, {"allowed_images": {"R": {"img": "r"}}},
    {"image_options": {"x": {"read_only": "yes"}}}, {"cgroup_parent": "a/b"},
    {"tmp_size": None}, {"tmp_size": 0}, {"pids_limit": 1}, {"mem_limit": "much"},
])
def test_what_cannot_be_meant_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(TraitError, match=next(iter(wrong))):
        DockerSpawner(**wrong)


def test_options_come_from_the_field_s_configuration_file() -> None:
    config = Config()
    config.Spawner.mem_limit = "1G"
    config.DockerSpawner.image = "mine:1"
    config.DockerSpawner.allowed_images = {"Other": "other:2"}
    config.DockerSpawner.image_options = {"other:2": {"port": 80, "inject_token": False, "default_url": "/"}}
    spawner = DockerSpawner(config=config)
    assert spawner.mem_limit == 1 << 30
    assert spawner.images() == {"mine:1": "mine:1", "Other": "other:2"}
    assert (spawner.options("").port, spawner.options("Other").port, spawner.options("other:2").inject_token) == (
        8888, 80, False)


def test_images_of_profiles_and_groups_may_run_though_not_everybody_is_offered_them() -> None:
    spawner = DockerSpawner(
        image="mine:1", allowed_images={"R": {"image": "r:1", "display_name": "Statistics"}},
        profile_list=[{"display_name": "A", "image": "R"}, {"display_name": "B", "image": "b:1"}])
    spawner.more_images = (ImageChoice("R", "R", "R"), ImageChoice("c", "c:1", "c"))
    assert [choice.display_name for choice in spawner.image_choices()] == ["mine:1", "Statistics"]
    assert [spawner.resolve(image) for image in ("", "R", "r:1", "b:1", "c")] == ["mine:1", "r:1", "r:1", "b:1", "c:1"]
    assert set(spawner.images().values()) >= {"mine:1", "r:1", "b:1", "c:1"}


def test_the_limits_of_one_start_go_before_the_spawner_s() -> None:
    spawner = DockerSpawner(mem_limit="1G", mem_guarantee="512M", cpu_limit=1.0, docker_host="unix:///nobody.sock")
    own, other = (spawner._config(spec, "x", extra_mounts=[])["HostConfig"] for spec in (
        SPEC, replace(SPEC, mem_limit_bytes=256 << 20, cpu_limit=2.5)))
    assert (own["Memory"], own["MemorySwap"], own["NanoCpus"], own["MemoryReservation"]) == (
        1 << 30, 1 << 30, 10**9, 512 << 20)
    assert (other["Memory"], other["MemorySwap"], other["NanoCpus"], other["MemoryReservation"]) == (
        256 << 20, 256 << 20, 2_500_000_000, 256 << 20)
    assert spawner.spec_hash(SPEC) != spawner.spec_hash(replace(SPEC, cpu_limit=2.0))


@pytest.mark.anyio
@pytest.mark.parametrize("image", ["x", "other:2 ", "Mine:1", "mine", "mine:2", "registry/mine:1", "../mine:1"])
async def test_an_image_that_is_not_listed_is_refused_without_asking_the_engine(image: str) -> None:
    spawner = DockerSpawner(image="mine:1", allowed_images=["other:2"], docker_host="unix:///nobody.sock")
    with pytest.raises(ImageNotAllowed):
        await spawner.check_image(image)


def test_volumes_know_the_user() -> None:
    assert containers.mounts(
        {"/data/{username}": "/data", "cache-{uid}": {"bind": "/c/{servername}", "mode": "ro,z"}}, SPEC, read_only=False,
    ) == [
        {"Type": "bind", "Source": "/data/alice", "Target": "/data", "ReadOnly": False},
        {"Type": "volume", "Source": "cache-20001", "Target": "/c/lab2", "ReadOnly": True},
    ]


# -- accounts ---------------------------------------------------------------------------------------------------------
PASSWD = "root:x:0:0:root:/root:/bin/bash\ngames:x:5:60::/usr/games:/bin/sh\njovyan:x:1000:1000::/home/jovyan:/bin/bash\n"
GROUP = "root:x:0:\ngames:x:60:\njovyan:x:1000:\n"


@pytest.mark.parametrize(("name", "uid", "kept"), [
    ("alice", 20001, ["root", "games", "jovyan"]), ("games", 20001, ["root", "jovyan"]),
    ("alice", 1000, ["root", "games"]), ("root", 20001, ["root", "games", "jovyan"]),
])
def test_the_user_comes_first_and_root_stays(name: str, uid: int, kept: list[str]) -> None:
    passwd, group = containers.account_files(PASSWD, GROUP, name=name, uid=uid, home="/home/x", shell="/bin/bash")
    lines = passwd.splitlines()
    assert lines[0] == f"{name}:x:{uid}:{uid}:{name}:/home/x:/bin/bash"
    assert [line.split(":")[0] for line in lines[1:]] == kept
    assert group.splitlines()[0] == f"{name}:x:{uid}:"


def test_an_image_without_accounts_gets_the_user_alone() -> None:
    assert containers.account_files("", "", name="a", uid=7, home="/h", shell="/bin/sh") == (
        "a:x:7:7:a:/h:/bin/sh\n", "a:x:7:\n")


# -- what there is ----------------------------------------------------------------------------------------------------
def inspection(status: str = "running", address: str = "10.77.0.7", **state: Any) -> dict[str, Any]:
    labels = containers.labels(SPEC, namespace="appliance", box="/srv/box/state", spec_hash="h", image="i", image_id="sha", url="http://10.77.0.7:8888")
    return {
        "Config": {"Labels": labels},
        "State": {"Status": status, "StartedAt": "2026-11-23T04:32:37.749563123Z", **state},
        "NetworkSettings": {"Networks": {"appliance": {"IPAddress": address}}},
    }


def test_what_the_engine_says_is_read_back() -> None:
    found = containers.from_inspection(inspection(), "appliance")
    assert found is not None
    assert (found.server_id, found.start_no, found.user_name, found.server_name, found.uid) == (
        "k3f9", 2, "alice", "lab2", 20001)
    assert (found.state, found.url, found.address) == (ActualState.RUNNING, "http://10.77.0.7:8888", "10.77.0.7")
    assert found.started_at == datetime(2026, 11, 23, 4, 32, 37, 749563, UTC)


def test_a_dead_container_has_a_cause_and_no_address() -> None:
    found = containers.from_inspection(
        inspection("exited", ExitCode=137, OOMKilled=True, Error="words"), "appliance")
    assert found is not None
    assert (found.state, found.exit_code, found.oom_killed, found.error, found.url, found.address) == (
        ActualState.EXITED, 137, True, "words", "", "")


@pytest.mark.parametrize("address", ["10.77.0.8", "10.77.0.77", "", "110.77.0.7"])
def test_a_container_at_another_address_has_no_url(address: str) -> None:
    found = containers.from_inspection(inspection(address=address), "appliance")
    assert found is not None
    assert found.url == ""


def test_containers_with_foreign_labels_are_nobody_s() -> None:
    found = inspection()
    found["Config"]["Labels"] = {containers.NAMESPACE: "appliance", containers.SERVER: "x", containers.START: "one"}
    assert containers.from_inspection(found, "appliance") is None


def test_log_lines_hold_no_tokens_and_no_control_characters() -> None:
    said = readable(b"\x1b[31mred\x1b[0m http://x/lab?token=0123abc&x=1 \x00\x07\xff\nPassword: hunter2\n")
    assert said == "red http://x/lab?token=…&x=1 \N{REPLACEMENT CHARACTER}\nPassword: …\n"


@pytest.mark.parametrize(("memory", "expected"), [
    ({"usage": 100, "stats": {"total_inactive_file": 30, "inactive_file": 1}}, 70),  # cgroup v1
    ({"usage": 100, "stats": {"inactive_file": 40}}, 60),                            # cgroup v2
])
def test_memory_in_use_is_without_the_cache(memory: dict[str, Any], expected: int) -> None:
    stats = {"memory_stats": memory, "cpu_stats": {"cpu_usage": {"total_usage": 1_500_000_000}}, "pids_stats": {"current": 3}}
    assert containers.reading_of(stats) == Reading(expected, 1.5, 3)


def test_a_container_that_does_not_run_uses_nothing() -> None:
    assert containers.reading_of({"memory_stats": {}, "cpu_stats": {"cpu_usage": {"total_usage": 0}}}) is None


# -- the network ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("subnet", ["10.77.0.0/16", "10.0.0.0/8", "192.168.4.0/24", "10.0.0.32/27"])
def test_no_server_gets_an_address_that_is_somebody_else_s(subnet: str) -> None:
    bridge = Bridge.parse("appliance", "appliance", subnet)
    some = [address for address, _ in zip(bridge.addresses(), range(300), strict=False)]
    assert some
    assert bridge.gateway not in some
    assert str(bridge.subnet.network_address) not in some
    assert not any(address in some for address in map(str, bridge.dynamic))


@pytest.mark.parametrize("namespace", ["appliance", "a", "a-very-long-namespace-of-somebody", "box81-54e5-27"])
def test_interfaces_have_names_the_kernel_takes(namespace: str) -> None:
    name = Bridge.parse("n", namespace, "10.77.0.0/16").interface
    assert len(name) <= 15
    assert name.startswith("br-")


def test_another_gateway_is_left_out() -> None:
    bridge = Bridge.parse("n", "n", "10.77.0.0/24", "10.77.0.100")
    assert "10.77.0.1" in bridge.addresses()
    assert "10.77.0.100" not in bridge.addresses()
    for wrong in ("10.78.0.1", "10.77.0.0", "10.77.0.255", "10.77.0.250", "x"):
        with pytest.raises(BadOption):
            Bridge.parse("n", "n", "10.77.0.0/24", wrong)


@pytest.mark.parametrize("info", [
    {"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]}, {"SecurityOptions": ["name=userns"]},
    {"OperatingSystem": "Docker Desktop"}, {"OSType": "windows"},
])
def test_unsuitable_engines_are_refused_with_the_reason(info: dict[str, Any]) -> None:
    with pytest.raises(EngineUnsuitable) as refused:
        refuse_unsuitable(info)
    assert "This " in refused.value.action


def test_an_ordinary_engine_is_taken() -> None:
    refuse_unsuitable({"SecurityOptions": ["name=seccomp,profile=default", "name=cgroupns"], "OSType": "linux",
                       "OperatingSystem": "Debian GNU/Linux 12 (bookworm)"})


# -- the firewall -----------------------------------------------------------------------------------------------------
def test_the_table_is_replaced_in_one_transaction() -> None:
    text = Rules("t", "br-x", "10.0.0.1").text()
    assert text.startswith("add table inet t\ndelete table inet t\ntable inet t {")
    assert "flush" not in text


def test_rules_name_only_what_may_be_reached() -> None:
    text = Rules("t", "br-x", "10.0.0.1", public_ports=(80, 8000), gateway_ports=(8081,), resolvers=("9.9.9.9",)).text()
    assert "tcp dport { 80, 8000 } accept" in text
    assert "ip daddr 10.0.0.1 tcp dport { 8081 } accept" in text
    assert "ip daddr { 9.9.9.9 } meta l4proto { tcp, udp } th dport 53 accept" in text
    assert f"ip daddr != {{ {', '.join(NOT_INTERNET)} }} accept" in text
    assert "169.254.0.0/16" in text


def test_without_the_internet_only_the_list_is_reached() -> None:
    text = Rules("t", "br-x", "10.0.0.1", egress=parse_egress(["10.1.0.0/16"])).text()
    assert "ip daddr { 10.1.0.0/16 } accept" in text
    assert "ip daddr !=" not in text


def test_lists_of_networks_are_made_disjoint() -> None:
    assert parse_egress(["10.1.2.3/16", "internet", "10.1.4.0/24", "8.8.8.8"]) == ("internet", "8.8.8.8/32", "10.1.0.0/16")


def test_name_servers_are_the_host_s_but_not_those_on_loopback(tmp_path: Path) -> None:
    first, second = tmp_path / "resolv.conf", tmp_path / "resolved.conf"
    first.write_text("# x\nnameserver 127.0.0.53\nnameserver\nnameserver fe80::1%eth0\nsearch a b\n")
    second.write_text("nameserver 192.168.1.1\nnameserver 9.9.9.9\nnameserver 192.168.1.1\n")
    assert host_resolvers([first, second, tmp_path / "missing"]) == ("192.168.1.1", "9.9.9.9")


def test_tables_have_names_nft_takes() -> None:
    assert table_name("appliance") == "appliance"
    assert table_name("box81-54e5") == "appliance_box81_54e5"
