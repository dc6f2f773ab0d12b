"""The playbook pleases ansible-lint, in its strictest profile, and yamllint."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.unit


@pytest.mark.parametrize("command", [("yamllint", "--strict", "ansible"), ("ansible-lint", "--nocolor", "ansible")])
def test_nothing_is_found(command, tmp_path):
    programs = Path(sys.executable).parent
    done = subprocess.run(
        [programs / command[0], *command[1:]], cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "XDG_CACHE_HOME": str(tmp_path),
             "ANSIBLE_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
