"""The configuration: what is taken, what is warned of, what stops with file, line and reason."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from traitlets import List, Set, Unicode

from appliance import config, plugins
from appliance.authenticators.local import AccountsAuthenticator
from appliance.authenticators.pam import PAMAuthenticator
from appliance.config import Settings, load_cookie_secret, load_settings
from appliance.errors import Misconfigured
from appliance.ports import Homes, Proxy, Spawner

pytestmark = pytest.mark.unit


class DockerSpawner(Spawner):
    image = Unicode("notebook").tag(config=True)
    allowed_images = Set(Unicode()).tag(config=True)
    volumes = List(Unicode()).tag(config=True)


class TraefikProxy(Proxy):
    pass


class DirectoryHomes(Homes):
    pass


Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Return a function from a file's text, or None for no file, and a command line to settings."""
    monkeypatch.chdir(tmp_path)

    def load(text: str | bytes | None = None, *argv: str) -> Settings:
        if text is not None:
            Path("jupyterhub_config.py").write_bytes(text if isinstance(text, bytes) else text.encode())
        fakes = {"spawner_class": DockerSpawner, "proxy_class": TraefikProxy, "homes_class": DirectoryHomes}
        return load_settings([
            *(f"--JupyterHub.{option}={__name__}.{cls.__name__}" for option, cls in fakes.items()
              if option not in str(text)), *argv])

    return load


def refused(load: Load, text: str | bytes | None, *argv: str) -> str:
    with pytest.raises(Misconfigured) as error:
        load(text, *argv)
    return error.value.sentence


# -------------------------------------------------------------------------------------------------------------- taken --
def test_without_any_file_the_box_is_as_jupyterhub(load: Load, tmp_path: Path) -> None:
    settings = load()
    assert (settings.ip, settings.port, settings.base_url, settings.hub_ip, settings.hub_port) == (
        "", 8000, "/", "127.0.0.1", 8081)
    assert settings.db_url == f"sqlite:///{tmp_path}/jupyterhub.sqlite"
    assert settings.cookie_secret_file == tmp_path / "jupyterhub_cookie_secret"
    assert settings.cookie_max_age == timedelta(days=14)
    assert settings.authenticator_class is PAMAuthenticator
    assert settings.config_file is None
    assert settings.log_level == logging.INFO
    assert settings.concurrent_spawn_limit >= 8


def test_default_drivers_are_pam_docker_traefik_directory() -> None:
    traits = config.JupyterHub.class_traits()
    assert [traits[kind.option].default_value for kind in plugins.KINDS] == ["pam", "docker", "traefik", "directory"]


def test_file_reaches_the_drivers_and_their_parents(load: Load) -> None:
    settings = load(
        "c = get_config()\n"
        "c.JupyterHub.authenticator_class = 'local'\n"
        "c.Authenticator.admin_users = {'ann'}\n"
        "c.AccountsAuthenticator.minimum_password_length = 10\n"
        "c.Spawner.mem_limit = '1G'\n"
        "c.Spawner.image = 'mine'\n"
        "c.DockerSpawner.volumes.append('a:b')\n")
    assert settings.notices == ()
    authenticator = settings.make(settings.authenticator_class)
    assert isinstance(authenticator, AccountsAuthenticator)
    assert (authenticator.admin_users, authenticator.minimum_password_length) == ({"ann"}, 10)
    spawner = settings.make(settings.spawner_class, state_dir=settings.state_dir)
    assert isinstance(spawner, DockerSpawner)
    assert (spawner.mem_limit, spawner.image, spawner.volumes) == (1 << 30, "mine", ["a:b"])
    assert spawner.state_dir == settings.state_dir


def test_command_line_wins_over_the_file(load: Load) -> None:
    settings = load("c.JupyterHub.port = 9001\nc.JupyterHub.ip = '10.0.0.1'", "--port=9002", "--debug")
    assert (settings.port, settings.ip, settings.log_level) == (9002, "10.0.0.1", logging.DEBUG)


@pytest.mark.parametrize(("argv", "admins"), [
    (["--Authenticator.admin_users=ann"], {"ann"}),
    (["--Authenticator.admin_users", "ann", "--Authenticator.admin_users=bob"], {"ann", "bob"}),
    (["--Authenticator.admin_users={'ann', 'bob'}"], {"ann", "bob"}),
])
def test_any_option_can_be_set_on_the_command_line(load: Load, argv: list[str], admins: set[str]) -> None:
    settings = load(None, *argv, "--Spawner.mem_limit=2G", "--Spawner.environment=A=b", "--JupyterHub.redirect_to_server=0")
    assert settings.make(settings.authenticator_class).admin_users == admins
    spawner = settings.make(settings.spawner_class)
    assert (spawner.mem_limit, spawner.environment) == (2 << 30, {"A": "b"})
    assert settings.redirect_to_server is False


def test_class_may_be_written_in_the_file_itself(load: Load) -> None:
    settings = load(
        "from appliance import Authenticator\n"
        "from traitlets import Unicode\n"
        "class Mine(Authenticator):\n"
        "    word = Unicode('').tag(config=True)\n"
        "    async def authenticate(self, request, data):\n"
        "        return data['username'] if data['password'] == self.word else None\n"
        "c.JupyterHub.authenticator_class = Mine\n"
        "c.Mine.word = 'please'\n")
    assert settings.notices == ()
    assert getattr(settings.make(settings.authenticator_class), "word") == "please"  # noqa: B009


def test_another_file_is_loaded_beside_the_first(load: Load, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "more.py").write_text("c.JupyterHub.port = 9009\n")
    (tmp_path / "etc" / "box.py").write_text("load_subconfig('more.py')\nload_subconfig('missing.py')\n")
    settings = load(None, "-f", "etc/box.py")
    assert (settings.port, settings.config_file) == (9009, tmp_path / "etc" / "box.py")


@pytest.mark.parametrize(("line", "expected"), [
    ("bind_url = 'http://127.0.0.1:9000/lab'", ("127.0.0.1", 9000, "/lab/")),
    ("bind_url = 'http://:9000'", ("", 9000, "/")),
    ("bind_url = 'http://*:9000/'", ("", 9000, "/")),
    ("bind_url = 'http://[::1]:9000/'", ("::1", 9000, "/")),
    ("bind_url = 'http://10.0.0.1'", ("10.0.0.1", 80, "/")),
    ("bind_url = 'http://10.0.0.1:9000/a'\nc.JupyterHub.port = 9001\nc.JupyterHub.base_url = '/'", ("10.0.0.1", 9001, "/")),
    ("ip = 'localhost'", ("127.0.0.1", 8000, "/")),
    ("ip = '0.0.0.0'", ("", 8000, "/")),
    ("base_url = 'jupyter'", ("", 8000, "/jupyter/")),
    ("base_url = '/a/b/'", ("", 8000, "/a/b/")),
])
def test_address_of_the_box(load: Load, line: str, expected: tuple[str, int, str]) -> None:
    settings = load(f"c.JupyterHub.{line}")
    assert (settings.ip, settings.port, settings.base_url) == expected
    assert settings.urls.base == settings.base_url


@pytest.mark.parametrize(("url", "expected"), [
    ("box.sqlite", "sqlite:///{here}/box.sqlite"), ("/srv/box.sqlite", "sqlite:////srv/box.sqlite"),
    ("sqlite:///box.sqlite", "sqlite:///{here}/box.sqlite"), ("sqlite:////srv/box.sqlite", "sqlite:////srv/box.sqlite"),
    ("postgresql://hub:pw@db/hub", "postgresql+psycopg://hub:pw@db/hub"),
    ("postgresql+psycopg://hub@/hub?host=/run/pg", "postgresql+psycopg://hub@/hub?host=/run/pg"),
])
def test_database(load: Load, tmp_path: Path, url: str, expected: str) -> None:
    assert load(None, "--db", url).db_url == expected.format(here=tmp_path)


def test_public_url_fixes_the_origin(load: Load) -> None:
    assert load("c.JupyterHub.public_url = 'https://Box.School:443/'").public_origin == "https://box.school"


# ----------------------------------------------------------------------------------------------------- warned of --
@pytest.mark.parametrize(("line", "nearest"), [
    ("c.JupyterHub.prot = 1", "c.JupyterHub.port"),
    ("c.Authenticator.admin_user = {'a'}", "c.Authenticator.admin_users"),
    ("c.Authenticator.whitelist = {'a'}", "c.Authenticator.allowed_users"),
    ("c.JupyterHub.admin_users = {'a'}", "c.Authenticator.admin_users"),
    ("c.DockerSpawner.imag = 'x'", "c.DockerSpawner.image"),
    ("c.Spawner.mem_limt = 'x'", "c.Spawner.mem_limit"),
    ("c.KubeSpawner.mem_limit = '1G'", "c.Spawner.mem_limit"),
    ("c.KubeSpawner.image = 'x'", "c.DockerSpawner.image"),
    ("c.Application.log_level = 10", "c.JupyterHub.log_level"),
    ("c.jupyterhub.port = 1", "c.JupyterHub"),
    ("c.Authenticator.admin_user.add('a')", "c.Authenticator.admin_users"),
])
def test_option_we_do_not_have_is_named_with_the_nearest(load: Load, line: str, nearest: str) -> None:
    notices = load(f"# first\n{line}\n").notices
    assert len(notices) == 1
    assert notices[0].startswith("jupyterhub_config.py, line 2: ")
    assert f"the nearest is {nearest}." in notices[0]


@pytest.mark.parametrize(("line", "words"), [
    ("c.JupyterHub.load_groups = {'7b': ['a']}", "put people into them with a roster or with the REST API."),
    ("c.JupyterHub.admin_access = True", "nobody opens another's server in a browser"),
    ("c.JupyterHub.hub_connect_ip = 'hub'", "it is not needed"),
    ("c.JupyterHub.subdomain_host = 'https://x'", "not in this version."),
    ("c.JupyterHub.template_paths = ['x']", "not in this version."),
    ("c.DockerSpawner.remove = True", "it is always on"),
    ("c.ConfigurableHTTPProxy.command = ['x']", "has no effect: there is one proxy, Traefik"),
    ("c.Authenticator.enable_auth_state = True", "“appliance --help-all” lists"),
    ("c.MyProxy.comand = 'x'", "there is no class MyProxy here; “appliance --help-all” lists"),
])
def test_option_of_jupyterhub_that_is_gone_says_what_to_do_and_names_none_of_another_class(
        load: Load, line: str, words: str) -> None:
    notice, = load(line).notices
    assert notice.startswith("jupyterhub_config.py, line 1: ")
    assert words in notice
    assert "nearest" not in notice


def test_option_like_none_of_ours_points_to_the_list(load: Load) -> None:
    assert "--help-all" in load("c.JupyterHub.tornado_settings = {}").notices[0]


def test_option_of_a_driver_not_in_use_says_which_is(load: Load) -> None:
    notice, = load("c.LocalProcessSpawner.shell_cmd = []").notices
    assert notice.endswith("shell_cmd has no effect, because c.JupyterHub.spawner_class is DockerSpawner.")


def test_unknown_option_on_the_command_line_is_warned_of(load: Load) -> None:
    notice, = load(None, "--JupyterHub.prot=1").notices
    assert notice.startswith("on the command line: there is no option c.JupyterHub.prot")


def test_traitlets_does_not_warn_once_more(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    settings = load("c.Authenticator.admin_user = {'a'}\nc.JupyterHub.prot = 1")
    settings.make(settings.authenticator_class)
    assert caplog.records == []


@pytest.mark.parametrize(("line", "warned"), [
    ("", True), ("ip = '10.0.0.1'", True), ("ip = '127.0.0.1'", False), ("ip = '::1'", False),
    ("public_url = 'https://box.school'", False), ("public_url = 'http://box.school'", True),
])
def test_public_and_unencrypted_is_warned_of(load: Load, line: str, warned: bool) -> None:
    settings = load(f"c.JupyterHub.{line}" if line else "")
    assert any("without encryption" in warning for warning in config.warnings(settings)) is warned


@pytest.mark.parametrize(("ip", "warned"), [("127.0.0.1", False), ("::1", False), ("", True), ("10.0.0.1", True)])
def test_hub_that_others_reach_past_the_proxy_is_warned_of(load: Load, ip: str, warned: bool) -> None:
    settings = load(f"c.JupyterHub.hub_ip = '{ip}'")
    assert any("past the proxy" in warning for warning in config.warnings(settings)) is warned


def test_certificate_needs_no_warning(load: Load, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("")
    (tmp_path / "cert").write_text("")
    settings = load(None, "--ssl-key=key", "--ssl-cert=cert")
    assert (settings.ssl_key, settings.ssl_cert) == (f"{tmp_path}/key", f"{tmp_path}/cert")
    assert config.warnings(settings) == []


# -------------------------------------------------------------------------------------------------------------- stops --
@pytest.mark.parametrize(("line", "reason"), [
    ("JupyterHub.port = 'abc'", "c.JupyterHub.port must be a whole number from 1 to 65535, not 'abc'."),
    ("JupyterHub.port = 70000", "c.JupyterHub.port must be a whole number from 1 to 65535, not 70000."),
    ("JupyterHub.ip = 1", "c.JupyterHub.ip must be text in quotes, not 1."),
    ("JupyterHub.redirect_to_server = 'yes'", "c.JupyterHub.redirect_to_server must be True or False, not 'yes'."),
    ("Authenticator.admin_users = 'ann'", "c.Authenticator.admin_users must be a set like {'one', 'two'}, not 'ann'."),
    ("Authenticator.admin_users = {1}", "c.Authenticator.admin_users must be a set like {'one', 'two'}, not {1}."),
    ("Authenticator.post_auth_hook = 5", "c.Authenticator.post_auth_hook must be a function, or None, not 5."),
    ("Spawner.mem_limit = 'lots'", "c.Spawner.mem_limit must be a size like 512M or 2G, or None, not 'lots'."),
    ("Spawner.cpu_limit = 'one'", "c.Spawner.cpu_limit must be a number, or None, not 'one'."),
    ("DockerSpawner.volumes = 3", "c.DockerSpawner.volumes must be a list like ['one', 'two'], not 3."),
    ("Spawner.environment = []", "c.Spawner.environment must be a dictionary like {'name': 'value'}, not []."),
    ("JupyterHub.base_url = '/a`b/'", "c.JupyterHub.base_url must be a path like"),
    ("JupyterHub.base_url = '/../'", "c.JupyterHub.base_url must be a path like"),
    ("JupyterHub.bind_url = 'nonsense'", "c.JupyterHub.bind_url must be like http://127.0.0.1:8000/."),
    ("JupyterHub.bind_url = 'http://x:abc'", "c.JupyterHub.bind_url must be like http://127.0.0.1:8000/."),
    ("JupyterHub.bind_url = 'https://:443'", "c.JupyterHub.bind_url says https, which needs"),
    ("JupyterHub.ip = 'box.school'", "c.JupyterHub.ip must be an IP address of this machine, not 'box.school'."),
    ("JupyterHub.public_url = 'box.school'", "c.JupyterHub.public_url must be like https://box.school"),
    ("JupyterHub.public_url = 'https://box.school/x'", "c.JupyterHub.public_url must be like https://box.school"),
    ("JupyterHub.default_url = '//evil'", "c.JupyterHub.default_url must be a path of this box"),
    ("JupyterHub.db_url = 'mysql://db/hub'", "c.JupyterHub.db_url must be the path of a file"),
    ("JupyterHub.db_url = 'sqlite://'", "c.JupyterHub.db_url must be the path of a file"),
    ("JupyterHub.ssl_key = 'x'", "c.JupyterHub.ssl_key needs the other of the two"),
    ("JupyterHub.authenticator_class = 'dummy'", "c.JupyterHub.authenticator_class: there is nothing called 'dummy'. "
                                                 "There is: local, pam; or name a class by its import path"),
    ("JupyterHub.authenticator_class = 'os.path'", "c.JupyterHub.authenticator_class: 'os.path' is not an Authenticator for"),
    ("JupyterHub.authenticator_class = 'no_such_thing.X'", "'no_such_thing.X' cannot be imported: there is no module"),
    ("JupyterHub.authenticator_class = 'os.nothing'", "the module 'os' has no class 'nothing'"),
    ("JupyterHub.authenticator_class = dict", "dict is not an Authenticator for this program, because it is no subclass of "
                                              "appliance.Authenticator; see “Writing an Authenticator”"),
    ("JupyterHub.spawner_class = 'local'", "There is: docker, localprocess"),
    ("JupyterHub.log_level = 'LOUD'", "c.JupyterHub.log_level must be one of 0, 10,"),
    ("JupyterHub = 5", "ValueError: values whose keys begin with an uppercase char"),
])
def test_value_that_cannot_be_stops_with_file_line_and_reason(load: Load, line: str, reason: str) -> None:
    sentence = refused(load, f"# a comment\n\nc.{line}\n")
    assert sentence.startswith("jupyterhub_config.py, line 3: ")
    assert reason in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(("text", "at", "reason"), [
    ("x = 1\nc.JupyterHub.port = \n", 2, "invalid syntax"),
    ("import no_such_module\n", 1, "ModuleNotFoundError: No module named 'no_such_module'"),
    ("def f():\n    return 1 / 0\nf()\n", 2, "ZeroDivisionError: division by zero"),
    ("import sys\nsys.exit(3)\n", 2, "it ended the program (3)"),
    (b"c.JupyterHub.ip = '\xff'\n", 1, "(unicode error)"),
])
def test_broken_file_stops_with_file_line_and_reason(load: Load, text: str | bytes, at: int, reason: str) -> None:
    sentence = refused(load, text)
    assert sentence.startswith(f"jupyterhub_config.py, line {at}: ")
    assert reason in sentence


def test_error_in_a_loaded_file_names_that_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "more.py").write_text("\nc.JupyterHub.port = 'x'\n")
    assert refused(load, "load_subconfig('more.py')").startswith("more.py, line 2: c.JupyterHub.port")
    (tmp_path / "more.py").write_text("\nnonsense\n")
    assert refused(load, "load_subconfig('more.py')") == "more.py, line 2: NameError: name 'nonsense' is not defined."


def test_last_of_two_lines_is_the_one_named(load: Load) -> None:
    assert "line 2: " in refused(load, "c.JupyterHub.port = 8001\nc.JupyterHub.port = 'x'\nprint(c.Spawner.port)\n")


def test_wrong_value_on_the_command_line_says_so(load: Load) -> None:
    sentence = refused(load, "c.JupyterHub.port = 8000", "--port=abc")
    assert sentence == "on the command line: c.JupyterHub.port must be a whole number from 1 to 65535, not 'abc'."


def test_option_without_its_value_is_refused(load: Load) -> None:
    assert refused(load, None, "--JupyterHub.port") == "The option --JupyterHub.port needs a value: --JupyterHub.port=VALUE."


def test_file_that_was_named_has_to_be_there(load: Load, tmp_path: Path) -> None:
    assert refused(load, None, "-f", "missing.py") == "There is no file missing.py."
    assert refused(load, None, "-f", str(tmp_path)) == f"{tmp_path} is a folder, not a file."


def test_unreadable_file_stops() -> None:
    code = """
import os
from appliance.errors import Misconfigured
from appliance.config import load_settings
load_settings([])           # what Python imports late it imports now
if os.geteuid() == 0:       # root reads everything
    os.seteuid(65534)
try:
    load_settings(["-f", "closed.py"])
except Misconfigured as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        Path(folder, "closed.py").touch(mode=0)
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert "Permission denied" in done.stdout, done.stderr


def test_certificate_that_is_not_there_stops(load: Load) -> None:
    assert refused(load, None, "--ssl-key=k", "--ssl-cert=c") == (
        "on the command line: c.JupyterHub.ssl_key cannot be read: k: No such file or directory.")


# ------------------------------------------------------------------------------------------------------------- secret --
def test_cookie_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "jupyterhub_cookie_secret"
    secret = load_cookie_secret(path)
    assert len(secret) == 32
    assert path.read_text() == secret.hex() + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_cookie_secret(path) == secret
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666, 0o620])
def test_cookie_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    load_cookie_secret(path)
    path.chmod(mode)
    with pytest.raises(Misconfigured, match=f"chmod 600 '{path}'"):
        load_cookie_secret(path)


@pytest.mark.parametrize(("text", "says"), [("", "empty"), ("\n", "empty"), ("zz" * 32, "hexadecimal"), ("ab" * 8, "too short"),
                                            ("é" * 64, "hexadecimal"), ("abc", "hexadecimal")])
def test_cookie_secret_that_is_damaged_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_text(text)
    with pytest.raises(Misconfigured, match=says):
        load_cookie_secret(path)


def test_cookie_secret_of_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_COOKIE_SECRET", "ab" * 32)
    assert load_cookie_secret(tmp_path / "secret") == b"\xab" * 32
    assert not (tmp_path / "secret").exists()
    monkeypatch.setenv("JPY_COOKIE_SECRET", "nonsense")
    with pytest.raises(Misconfigured, match="JPY_COOKIE_SECRET is not in hexadecimal"):
        load_cookie_secret(tmp_path / "secret")


def test_cookie_secret_without_a_folder_stops(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="No such file or directory"):
        load_cookie_secret(tmp_path / "missing" / "secret")


# -- services ------------------------------------------------------------------------------------------------------
def test_services_are_read(load: Load) -> None:
    settings = load("""
c.JupyterHub.custom_scopes = {"custom:grades": {"description": "read grades"}}
c.JupyterHub.services = [
    {"name": "culler", "command": ["jupyterhub-idle-culler"]},
    {"name": "grades", "url": "http://127.0.0.1:9999", "oauth_client_allowed_scopes": ["custom:grades"]},
]
""")
    assert [(service.name, service.kind) for service in settings.services] == [("culler", "managed"), ("grades", "external")]
    assert settings.notices == ()


@pytest.mark.parametrize(("said", "words"), [
    ("[{'name': 'a', 'comand': ['x']}]",
     "jupyterhub_config.py, line 1: c.JupyterHub.services cannot be used: service “a”: There is no “comand” in a service; "
     "the nearest is “command”."),
    ("[{'name': 'a', 'api_token': 'short'}]", "service “a”: “api_token” is too short"),
    ("[{'name': 'a'}, {'name': 'a'}]", "service “a”: There is another service with the name “a”."),
    ("[{'name': 'hub'}]", "service “hub”: The name “hub” is the box's own"),
    ("['culler']", "c.JupyterHub.services must be"),
])
def test_services_that_cannot_be_are_refused_with_a_sentence(load: Load, said: str, words: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        load(f"c.JupyterHub.services = {said}")
    assert words in str(caught.value)


# -- roles and scopes ----------------------------------------------------------------------------------------------
def test_roles_are_read_with_scopes_of_ones_own(load: Load) -> None:
    settings = load("""
c.JupyterHub.custom_scopes = {"custom:grades": {"description": "read grades"}}
c.JupyterHub.load_roles = [{"name": "grader", "scopes": ["custom:grades!group=7a"], "groups": ["teachers"]}]
""")
    assert settings.roles.of_user("ada", ["teachers"], admin=False) == ("grader", "user")
    assert "custom:grades" in settings.roles.scopes
    assert load("").roles.of_user("ada", [], admin=True) == ("admin", "user")


@pytest.mark.parametrize(("said", "words"), [
    ("c.JupyterHub.load_roles = [{'name': 'grader', 'scope': []}]",
     "jupyterhub_config.py, line 1: c.JupyterHub.load_roles cannot be used: role “grader”: There is no “scope” in a role; "
     "the nearest is “scopes”."),
    ("c.JupyterHub.load_roles = [{'name': 'grader', 'scopes': ['custom:grades']}]", "There is no scope “custom:grades”."),
    ("c.JupyterHub.load_roles = [{'name': 'admin', 'scopes': ['self']}]", "What the role admin may do cannot be changed"),
    ("c.JupyterHub.load_roles = ['grader']", "c.JupyterHub.load_roles must be"),
    ("c.JupyterHub.custom_scopes = {'grades': {'description': 'x'}}", "c.JupyterHub.custom_scopes cannot be used"),
    ("c.JupyterHub.token_expires_in_max_seconds = -1", "c.JupyterHub.token_expires_in_max_seconds must be a whole number"),
])
def test_roles_that_cannot_be_are_refused_with_a_sentence(load: Load, said: str, words: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        load(said)
    assert words in str(caught.value)
