"""The documentation builds without a warning and says nothing that is not there."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import appliance
from appliance import cli, config
from appliance.box import __main__ as box
from appliance.box.shell import BoxError
from appliance.errors import Misconfigured

pytestmark = pytest.mark.unit

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
CHANGELOG = REPOSITORY / "CHANGELOG.md"
PAGES = sorted(DOCS.glob("*.rst"))
CLASSES = list(cli.configurable_classes())


# ------------------------------------------------------------------------------------------------- the built pages --
@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(folder / "trees"),
         str(DOCS), str(folder / "html")], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        self.ids |= {said["id"] or ""} if "id" in said else set()
        self.targets |= {said[name] or "" for name in ("href", "src") if name in said}


def links_of(page: Path) -> Links:
    links = Links()
    links.feed(page.read_text())
    return links


def test_links_between_pages_lead_somewhere(built: Path) -> None:
    pages = {page.name: links_of(page) for page in built.glob("*.html")}
    assert {"index.html", "genindex.html", "py-modindex.html", "search.html"} <= pages.keys()
    dead = []
    for name, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = parts.path or name
            if not (built / unquote(file)).exists() or (
                    parts.fragment and file in pages and unquote(parts.fragment) not in pages[file].ids):
                dead.append(f"{name}: {target}")
    assert not dead


def test_nothing_is_fetched_from_elsewhere(built: Path) -> None:
    for page in built.glob("*.html"):
        text = page.read_text()
        assert not re.search(r"""(<script[^>]+src|<link[^>]+stylesheet[^>]+href|<img[^>]+src)=["']https?:""", text), page


def test_every_option_is_in_the_index(built: Path) -> None:
    index = (built / "genindex.html").read_text()
    for cls in CLASSES:
        for name in cls.class_own_traits(config=True):
            assert f"{cls.__name__}.{name}" in index


# ------------------------------------------------------------------------------------------------- what is complete --
@pytest.mark.parametrize("option", [
    pytest.param(trait, id=f"{cls.__name__}.{name}")
    for cls in CLASSES for name, trait in sorted(cls.class_own_traits(config=True).items())])
def test_every_option_says_what_it_does(option: object) -> None:
    text = getattr(option, "help", "")
    assert len(text) > 10
    assert text.rstrip().endswith(".")


def test_every_class_with_options_is_on_the_page() -> None:
    page = (DOCS / "configuration.rst").read_text()
    for cls in CLASSES:
        assert f".. configuration:: {cls.__name__}\n" in page


def test_every_public_name_is_on_the_page() -> None:
    page = (DOCS / "api.rst").read_text()
    for name in set(appliance.__all__) - {"__version__", "ApplianceError"}:
        assert re.search(rf"autoclass:: (\S+\.)?{name}\n", page)


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = (DOCS / "index.rst").read_text()
    for page in PAGES:
        assert page.stem == "index" or f"   {page.stem}\n" in contents


def test_the_changelog_knows_this_version() -> None:
    assert re.search(rf"^## \[{re.escape(appliance.__version__)}\] - (\d{{4}}-\d\d-\d\d|unreleased)$",
                     CHANGELOG.read_text(), re.MULTILINE)


# ---------------------------------------------------------------------------------------------------- what is true --
COMMAND = re.compile(r"""
    (?:^|[`($|]) \s* (?:\$\ )? (?:sudo\ )?
    (?: (?:\.venv/bin/)?appliance | \./bootstrap\ -- )
    ( (?:\ +(?:'[^']*'|"[^"]*"|[^\s`)\#|\\])(?:"[^"]*"|[^\s`)\#|\\])*)+ )""", re.VERBOSE)


def commands() -> list[tuple[str, str]]:
    found = []
    for page in (README, CHANGELOG, *PAGES):
        for line in page.read_text().splitlines():
            if line.lstrip().startswith(("..", "FROM ")) or line.startswith("appliance ") or "──" in line:
                continue  # a directive, a heading
            for match in COMMAND.finditer(line):
                found.append((page.name, re.sub(r"\s[<>]\s.*", "", match[1]).strip()))  # what the shell redirects
    return found


def test_commands_are_found() -> None:
    assert len(commands()) > 15


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda text: text[:60])
def test_every_command_exists(page: str, words: str) -> None:
    rest, options = config.split_options(shlex.split(words.replace("…", "x")))
    if rest and rest[0] in box.COMMANDS:  # of the machine itself, not of the Hub
        try:
            box.parser_of(rest[0]).parse_args(rest[1:])
        except BoxError as error:
            # ``appliance upgrade`` stands for the command, whatever it needs
            assert "required" in str(error), f"{page}: appliance {words}: {error}"
        return
    known = {cls.__name__: cls for cls in CLASSES}
    for section, option, _ in options:
        assert section == "Class" or option in known[section].class_traits(config=True)
    try:
        cli._parser().parse_args(rest)
    except Misconfigured as error:
        # ``appliance user`` and the like stand for the family of commands
        assert "required" in str(error), f"{page}: appliance {words}: {error}"


def test_every_command_is_documented() -> None:
    page = (DOCS / "command-line.rst").read_text()
    for words in [word for word in subcommands(cli._parser()) if word]:
        assert f".. command-help:: {words}\n" in page


def test_every_command_of_the_machine_is_documented() -> None:
    page = (DOCS / "command-line.rst").read_text()
    for words in box.COMMANDS:
        assert f".. machine-help:: {words}\n" in page


def test_every_role_s_readme_is_linked() -> None:
    page = (DOCS / "what-it-changes.rst").read_text()
    roles = sorted((REPOSITORY / "ansible/roles").iterdir())
    assert len(roles) > 5
    for role in roles:
        assert f"``{role.name}``, :download:`README <../ansible/roles/{role.name}/README.md>`" in page
        assert f".. role-variables:: {role.name}\n" in (DOCS / "playbook.rst").read_text()


def subcommands(parser: argparse.ArgumentParser, name: str = "") -> Iterator[str]:
    yield name
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield from subcommands(below, f"{name} {word}".strip())


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_options_that_are_named_exist(page: Path) -> None:
    known = {cls.__name__: cls for cls in CLASSES}
    for section, option in re.findall(r"\bc\.([A-Z]\w+)\.([a-z]\w+)", page.read_text()):
        assert section == "Class" or option in known[section].class_traits(config=True), f"c.{section}.{option}"


def test_options_that_jupyterhub_has_too_exist() -> None:
    page = (DOCS / "from-jupyterhub.rst").read_text()
    said = page.partition("Same name, same meaning:")[2].partition("Other name")[0]
    known = {cls.__name__: cls for cls in CLASSES}
    section = ""
    for name in re.findall(r"``([\w.]+)``", said):
        if name.startswith("c."):
            section, name = name.split(".")[1:]
        assert name in known[section].class_traits(config=True), f"c.{section}.{name}"


def test_files_that_the_readme_names_exist() -> None:
    text = README.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("docs/images/") and not (DOCS / "images").exists():
            continue  # the browser's tests take them
        assert (REPOSITORY / target).exists(), target
    layout = text.partition("## Layout")[2].partition("## Read on")[0]
    for line in layout.splitlines():
        if line.startswith("    "):
            inside = "appliance/" if line.startswith("      ") else ""
            for word in re.findall(r"(?:^|(?<=\s))([.\w/]+/|bootstrap|\.ci/run)(?=\s|$)", line.strip().split("  ")[0]):
                assert (REPOSITORY / inside / word).exists(), word


def test_the_figures_have_their_place() -> None:
    assert re.search(r"<!-- figures -->\n.+\n<!-- /figures -->", README.read_text(), re.DOTALL)


def test_the_environment_of_servers_is_as_documented() -> None:
    page = (DOCS / "other-images.rst").read_text()
    source = (REPOSITORY / "appliance" / "hub" / "specs.py").read_text()
    for name in re.findall(r'"([A-Z_]{4,})"', source):
        assert f"``{name}``" in page


def test_the_copy_of_a_database_in_use_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from appliance.admin import Admin
    from appliance.config import load_settings

    monkeypatch.chdir(tmp_path)
    with Admin(load_settings(["--JupyterHub.authenticator_class=local"])) as admin:
        admin.add_user("ada", admin=False, password="difference engine")
        page = (DOCS / "without-playbook.rst").read_text()
        program = page.partition("import sqlite3")[2].partition(".. code-block")[0]
        exec("\n".join(line.removeprefix("   ") for line in f"import sqlite3{program}".splitlines()))
    with Admin(load_settings(["--JupyterHub.authenticator_class=local", "--db=backup.sqlite"])) as copy:
        assert [user.name for user in copy.list_users()] == ["ada"]


@pytest.mark.parametrize("page", [README, CHANGELOG, *PAGES], ids=lambda page: page.name)
def test_pages_name_no_machine_and_no_registry(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"/(root|work|tmp|home/(?!\{))\b/", text.replace("homes/", ""))
    assert not re.search(r"docker\.io/|ghcr\.io|quay\.io|pypi\.org|index\.docker", text)


def test_packages_that_bootstrap_installs_are_named() -> None:
    text = (REPOSITORY / "bootstrap").read_text()
    packages = {word for words in re.findall(r"ensure_packages ([^;}\n)]+)", text) for word in words.split()
                if re.fullmatch(r"[a-z][a-z0-9.+-]+", word)}
    assert "nftables" in packages
    left = (DOCS / "getting-started.rst").read_text().partition("What it leaves")[2].partition("Undo it")[0]
    for package in packages - {"ubuntu-keyring"}:   # for the tier "box" alone, on machines that test installers
        assert package in left, package


def test_bootstrap_is_used_as_documented() -> None:
    def words(text: str) -> list[str]:
        return text.replace(";", "").split()

    usage = (REPOSITORY / "bootstrap").read_text().partition("<<'END'\n")[2].partition("END\n")[0]
    page = (DOCS / "command-line.rst").read_text().partition("code-block:: none")[2].partition(".. _machine-commands:")[0]
    assert sorted(words(usage)) == sorted(words(page))
