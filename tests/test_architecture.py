"""The layout's arrows, held: who may import whom, and one place each for the big libraries."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import appliance

pytestmark = pytest.mark.unit

ROOT = Path(appliance.__file__).parent
EVERYBODY_MAY = {"errors", "log", ""}
ARROWS = {
    "domain": set(),
    "ports": {"domain"},
    "jwt": set(),
    "store": {"domain"},
    "authenticators": {"ports", "jwt", "domain"},
    "spawners": {"ports", "jwt", "domain"},
    "proxies": {"ports", "jwt", "domain"},
    "homes": {"ports", "jwt", "domain"},
    "hub": {"store", "ports", "jwt", "domain"},
    "box": set(),                        # runs before anything is installed: see the test of its own below
    "web": {"hub", "domain", "ports"},   # ports: the plain data of the extension API
}
ONE_PLACE = {"cryptography": "proxies", "docker": "spawners", "jose": "jwt", "sqlalchemy": "store", "starlette": "web",
             "alembic": "store",
             "oauthlib": "hub",
             "prometheus_client": "hub"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "appliance":
                yield from (f"appliance.{name.name}" for name in node.names)
            elif node.module:
                yield node.module


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


MODULES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path) -> None:
    allowed = ARROWS.get(room(path))
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "appliance" and allowed is not None:
            target = rest[0] if rest else ""
            if target.startswith("__") or target not in {m.name.removesuffix(".py") for m in ROOT.iterdir()}:
                continue  # a name of the package itself
            assert target == room(path) or target in allowed | EVERYBODY_MAY, f"{path.name} imports {name}"
        if top in ONE_PLACE:
            assert room(path) == ONE_PLACE[top], f"{path.name} imports {name}, which only {ONE_PLACE[top]} may"


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) == "domain"], ids=lambda path: path.name)
def test_the_domain_uses_the_standard_library_only(path: Path) -> None:
    import sys

    for name in imports(path):
        assert name.split(".")[0] in {*sys.stdlib_module_names, "appliance"}


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) == "box"], ids=lambda path: path.name)
def test_the_host_s_side_uses_the_standard_library_only(path: Path) -> None:
    import sys

    for name in imports(path):
        assert name.split(".")[0] in {*sys.stdlib_module_names, "appliance"}


def test_the_public_names_are_pinned() -> None:
    assert sorted(appliance.__all__) == [
        "ActualServer", "ActualState", "ApplianceError", "Authenticator", "Home", "HomeUsage", "Homes", "Identity",
        "ImageChoice", "ImageOptions", "LoginRequest", "PasswordStore", "Profile", "Proxy", "Route", "ServerHandle",
        "ServerSpec", "ServiceRoute", "Spawner", "Usage", "__version__"]


def test_the_tree_of_errors_is_complete() -> None:
    from appliance import errors

    tree = errors.__doc__ or ""

    def walk(cls: type[errors.ApplianceError]) -> Iterator[type[errors.ApplianceError]]:
        yield cls
        for sub in cls.__subclasses__():
            if sub.__module__ == errors.__name__:
                yield from walk(sub)

    classes = list(walk(errors.ApplianceError))
    codes = [cls.code for cls in classes]
    assert len(set(codes)) == len(codes)
    for cls in classes:
        assert cls.__name__ in tree
        assert cls.sentence.endswith(".")
        assert cls.action.endswith(".")
