"""What ./bootstrap cannot do it says in one sentence, before it has changed anything."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

BOOTSTRAP = Path(__file__).parents[2] / "bootstrap"
pytestmark = pytest.mark.engine


@pytest.fixture
def clone(tmp_path):
    """A folder with nothing but the script in it, that anybody may enter."""
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    shutil.copy(BOOTSTRAP, tmp_path)
    return tmp_path


def refusal(clone, *words, prefix=()):
    answer = subprocess.run([*prefix, clone / "bootstrap", *words], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1
    assert [path.name for path in clone.iterdir()] == ["bootstrap"]
    return answer.stderr.splitlines()[-1]


@pytest.mark.skipif(os.getuid() != 0, reason="becomes somebody else, which only root can")
def test_without_root_it_says_so(clone):
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert "run it as root" in refusal(clone, prefix=nobody)
    assert "run it as root" in refusal(clone, "test", "unit", prefix=nobody)


def test_an_unknown_command_shows_how_it_is_used(clone):
    assert refusal(clone, "instal") == "There is no command instal; options of appliance come after --."


@pytest.mark.skipif(os.getuid() != 0, reason="tiers are read after root was found")
def test_an_unknown_tier_is_named(clone):
    assert refusal(clone, "test", "browsers") == "There is no tier browsers."


@pytest.mark.parametrize(("release", "name"), [
    ('ID=fedora\nVERSION_ID=43\nPRETTY_NAME="Fedora Linux 43"', "Fedora Linux 43"),
    ('ID=debian\nVERSION_ID="11"\nPRETTY_NAME="Debian GNU/Linux 11 (bullseye)"', "Debian GNU/Linux 11 (bullseye)"),
    ('ID=ubuntu\nVERSION_ID="22.04"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"', "Ubuntu 22.04.5 LTS"),
])
def test_a_system_it_does_not_know_is_named(tmp_path, release, name):
    os_release = tmp_path / "os-release"
    os_release.write_text(release)
    answer = subprocess.run(
        ["docker", "run", "--rm", "--volume", f"{BOOTSTRAP}:/bootstrap:ro", "--volume", f"{os_release}:/etc/os-release:ro",
         "appliance/base:latest", "bash", "/bootstrap"], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1
    assert answer.stderr == f"{name} is not supported: use Debian 12 or newer, or Ubuntu 24.04 or newer.\n"
