"""Every variable of every role has a default, a specification and a sentence; what is wrong with one is said in words."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from appliance.box.plan import auto_reserve

ROLES = Path(__file__).parents[2] / "ansible/roles"
NAMES = sorted(folder.name for folder in ROLES.iterdir() if (folder / "tasks").is_dir())
GIB = 1024 ** 3
pytestmark = pytest.mark.unit


def load(path):
    spec = importlib.util.spec_from_file_location("the_filters", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


filters = load(ROLES / "appliance/filter_plugins/appliance.py")


def read(role, path):
    return yaml.safe_load((ROLES / role / path).read_text(encoding="utf-8")) or {}


def options(role):
    return {name: spec for entry in read(role, "meta/argument_specs.yml")["argument_specs"].values()
            for name, spec in entry.get("options", {}).items()}


def all_defaults():
    return {name: value for role in NAMES for name, value in read(role, "defaults/main.yml").items()}


# ------------------------------------------------------------------------------------------------- what each role says --
@pytest.mark.parametrize("role", NAMES)
def test_every_default_is_specified_and_every_variable_has_a_default(role):
    assert set(read(role, "defaults/main.yml")) == set(options(role))


@pytest.mark.parametrize("role", NAMES)
def test_specification_and_default_say_the_same(role):
    for name, default in read(role, "defaults/main.yml").items():
        if isinstance(default, str) and "{{" in default:
            continue  # depends on other variables
        assert options(role)[name].get("default") == default, name


@pytest.mark.parametrize("role", NAMES)
def test_every_variable_is_explained_and_carries_its_roles_name(role):
    for name, spec in options(role).items():
        assert name.startswith(f"{role}_")
        assert str(spec.get("description", "")).strip(), name
    for line in (ROLES / role / "defaults/main.yml").read_text(encoding="utf-8").splitlines():
        assert len(line) <= 160, line


@pytest.mark.parametrize("role", NAMES)
def test_every_role_says_what_it_changes_and_how_to_undo_it(role):
    readme = (ROLES / role / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {role}\n")
    assert "Changes" in readme
    assert "Undo" in readme


def test_the_playbook_runs_every_role():
    play = yaml.safe_load((ROLES.parent / "site.yml").read_text(encoding="utf-8"))[0]
    order = [*(entry["role"] for entry in play["roles"]), play["tasks"][0]["block"][0]["ansible.builtin.import_role"]["name"]]
    assert sorted(order) == NAMES
    assert order[:2] == ["appliance", "preflight"]
    assert order[-1] == "smoke"


def test_only_modules_of_ansible_itself_are_used():
    plays = [*ROLES.glob("*/tasks/*.yml"), *ROLES.glob("*/handlers/*.yml"), ROLES.parent / "site.yml"]
    modules = {found for file in plays
               for found in re.findall(r"^\s+(\w+\.\w+\.\w+):", file.read_text(encoding="utf-8"), re.MULTILINE)}
    assert modules
    assert all(module.startswith("ansible.builtin.") for module in modules), modules


def test_the_tables_to_read_in_the_repository_are_those_of_the_roles():
    """`python ansible/variables.py > ansible/VARIABLES.md` makes them anew."""
    tables = (ROLES.parent / "VARIABLES.md").read_text(encoding="utf-8")
    assert tables == "\n".join(load(ROLES.parent / "variables.py").lines()) + "\n"
    assert set(re.findall(r"^\| `(\w+)` \|", tables, re.MULTILINE)) == {name for role in NAMES for name in options(role)}


@pytest.mark.parametrize("passes", [True, False])
def test_address_and_first_password_are_told_whatever_the_smoke_test_says(tmp_path, passes):
    """The last tasks of the playbook itself, with another smoke test."""
    play = yaml.safe_load((ROLES.parent / "site.yml").read_text(encoding="utf-8"))[0]
    (tmp_path / "roles/smoke/tasks").mkdir(parents=True)
    (tmp_path / "roles/smoke/tasks/main.yml").write_text(yaml.safe_dump([
        {"name": "Try", "ansible.builtin.assert": {"that": passes, "fail_msg": "a student cannot use it"}}]))
    said = "The password of admin, shown only this once: correct-horse"
    (tmp_path / "site.yml").write_text(yaml.safe_dump([{
        "hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": play["tasks"], "vars": {
            **all_defaults(), "appliance_name": "box.school.example", "hub_admin": {"stdout": said, "stdout_lines": [said]}}}]))
    done = subprocess.run([Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", tmp_path / "site.yml"],
                          capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert done.returncode == (0 if passes else 2), done.stdout + done.stderr
    assert "The box is at https://box.school.example/" in done.stdout
    assert "correct-horse" in done.stdout
    assert ("a student cannot use it" in done.stdout) != passes


# -------------------------------------------------------------------------------------------------------- what is wrong --
def test_the_defaults_are_right():
    values = {name: value for name, value in all_defaults().items() if "{{" not in str(value)}
    assert filters.problems(values) == []


@pytest.mark.parametrize(("variables", "words"), [
    ({"storage_homess": "loop"}, ["no variable storage_homess", "Did you mean storage_homes", "storage_quota"]),
    ({"docker_pakage": "vendor"}, ["docker_pakage", "Did you mean docker_package"]),
    ({"storage_homes": "dsik"}, ["storage_homes is “dsik”", "loop, disk, mount, directory", "Did you mean disk?"]),
    ({"appliance_http_port": "eighty"}, ["appliance_http_port is “eighty”", "a whole number"]),
    ({"appliance_http_port": 80.5}, ["appliance_http_port is “80.5”", "a whole number"]),
    ({"appliance_http_port": True}, ["appliance_http_port is “true”", "a whole number"]),
    ({"appliance_http_port": 70000}, ["appliance_http_port is 70000", "1 to 65535"]),
    ({"appliance_name": ["box"]}, ["appliance_name", "a text"]),
    ({"appliance_name": None}, ["appliance_name has no value"]),
    ({"appliance_archive_missing_users": "perhaps"}, ["perhaps", "true or false"]),
    ({"appliance_users": {"ada": 1}}, ["appliance_users", "a list"]),
    ({"appliance_users": ["ada"]}, ["appliance_users, entry 1, is", "a table"]),
    ({"appliance_users": [{"name": "ada", "nam": "ada"}]}, ["entry 1", "unknown key nam", "Did you mean name?"]),
    ({"appliance_users": [{"display_name": "Ada"}]}, ["entry 1, has no name"]),
    ({"appliance_users": [{"name": "ada", "admin": "sometimes"}]}, ["admin is “sometimes”", "true or false"]),
    ({"appliance_subnet": "10.77.0.1/16"}, ["appliance_subnet", "no IPv4 network"]),
    ({"storage_quota": "much"}, ["storage_quota is “much”", "a size like 512M or 20G"]),
    ({"appliance_memory_reserve": "some"}, ["appliance_memory_reserve is “some”"]),
    ({"storage_homes_device": "sdb"}, ["storage_homes_device is “sdb”", "from / on"]),
    ({"storage_homes": "disk"}, ["storage_homes is “disk”, so storage_homes_device has to be set"]),
    ({"firewall_extra_ports": ["http"]}, ["firewall_extra_ports", "“http”", "53/udp"]),
    ({"docker_avoid_networks": ["campus"]}, ["docker_avoid_networks", "“campus”"]),
    ({"docker_extra_authorities": ["/no/such.crt"]}, ["docker_extra_authorities names /no/such.crt"]),
    ({"appliance_users": [{"name": "ada"}], "appliance_users_file": __file__, "appliance_archive_missing_users": True},
     ["each list would archive the other's"]),
])
def test_what_is_wrong_is_said_in_a_sentence(variables, words):
    values = {**{name: value for name, value in all_defaults().items() if "{{" not in str(value)}, **variables}
    said = filters.problems(values)
    assert len(said) == 1
    for word in words:
        assert word in said[0]
    assert said[0].rstrip().endswith((".", "?", ")"))


def test_all_mistakes_are_named_at_once():
    said = filters.problems({"storage_homess": 1, "storage_homes": "dsik", "appliance_http_port": "x"})
    assert len(said) == 3


@pytest.mark.parametrize("value", ["", "0"])
def test_a_quota_may_be_none(value):
    assert filters.problems({"storage_quota": value or ""}) == []


# ------------------------------------------------------------------------------------------------- what templates need --
def test_the_reserve_is_the_one_the_checks_speak_of():
    for total in (4 * GIB, 16 * GIB, 64 * GIB):
        assert filters.reserve(total, "auto") == auto_reserve(total)
    assert filters.reserve(16 * GIB, "3G") == 3 * GIB


def test_students_keep_half_of_a_small_machine():
    assert filters.reserve(GIB, "auto") == GIB // 2
    assert filters.reserve(2 * GIB, "64G") == GIB


@pytest.mark.parametrize("path", ["/var/lib/appliance/homes", "/srv/my-box/homes", "/srv/ä b/.x", "/srv//x/"])
def test_units_are_named_as_systemd_names_them(path):
    try:
        said = subprocess.run(["systemd-escape", "--path", path], capture_output=True, text=True, check=True).stdout.strip()
    except FileNotFoundError:
        said = {"/var/lib/appliance/homes": "var-lib-appliance-homes", "/srv/my-box/homes": "srv-my\\x2dbox-homes",
                "/srv/ä b/.x": "srv-\\xc3\\xa4\\x20b-.x", "/srv//x/": "srv-x"}[path]
    assert filters.unit(path) == said


def test_docker_keeps_away_from_every_network_the_box_reaches():
    assert filters.address_pool({"networks": []}, ["10.77.0.0/16"]) == "172.31.0.0/16"
    assert filters.address_pool({"networks": ["172.31.4.0/24", "172.16.0.0/13"]}, []) == "172.30.0.0/16"
    assert filters.address_pool({"networks": ["172.16.0.0/12"]}, ["10.254.0.0/16"]) == "10.253.0.0/16"


def test_docker_stays_where_it_is_unless_told():
    box = {"networks": ["172.30.0.0/24"], "daemon_json": {"default-address-pools": [{"base": "172.30.0.0/16", "size": 24}]}}
    assert filters.address_pool(box, []) == "172.30.0.0/16"
    assert filters.address_pool(box, ["172.30.8.0/24"]) == "172.31.0.0/16"


def test_ports_are_sorted_by_protocol():
    entries = [8080, "53/udp", "6000-6010/tcp", "53/tcp", "8080"]
    assert filters.ports(entries, "tcp") == ["53", "6000-6010", "8080"]
    assert filters.ports(entries, "udp") == ["53"]


def test_what_is_installed_is_written_down_once(tmp_path):
    record = [ROLES / "appliance/files/record.py", tmp_path / "etc"]

    def run(mode, value):
        done = subprocess.run(["python3", "-I", *record, mode, json.dumps(value)], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert run("check", {"files": ["/b"]}) == "added"
    assert not (tmp_path / "etc").exists()
    assert run("write", {"files": ["/b"], "docker": True}) == "added"
    assert run("write", {"files": ["/a"]}) == "added"
    assert run("write", {"files": ["/b", "/a"], "docker": True}) == ""
    assert json.loads((tmp_path / "etc/installed.json").read_text()) == {"docker": True, "files": ["/a", "/b"]}


def test_looking_at_a_box_works_on_whatever_it_runs(tmp_path):
    done = subprocess.run(["python3", "-I", ROLES / "appliance/files/look.py", tmp_path], capture_output=True, text=True,
                          check=True)
    seen = json.loads(done.stdout)
    assert seen["memory_bytes"] > GIB // 8
    assert seen["installed"] == {}
    assert all(isinstance(port, int) for port in seen["ssh_ports"])
