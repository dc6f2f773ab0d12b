"""The host's side of the box runs on a Python that has nothing but its standard library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import appliance
from appliance.box import __main__

pytestmark = pytest.mark.unit

SOURCE = Path(appliance.__file__).parent.parent


def bare(code: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); sys.dont_write_bytecode = True; {code}"
    return subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60,
                          check=False, env={"PATH": os.environ["PATH"]})


def test_the_command_line_needs_no_other_library() -> None:
    done = bare("import appliance.box.__main__; print(sorted(set(m.split('.')[0] for m in sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert "traitlets" not in done.stdout


# each first, so that a circle of imports is seen wherever it is entered
@pytest.mark.parametrize("module", sorted(path.stem for path in Path(__main__.__file__).parent.glob("[!_]*.py")))
def test_each_command_needs_no_other_library(module: str) -> None:
    if not (SOURCE / "appliance/box" / f"{module}.py").exists():
        pytest.fail(f"the command's module {module} is missing")
    done = bare(f"import appliance.box.{module}")
    assert done.returncode == 0, done.stderr


def test_the_package_s_names_are_there_when_they_are_asked_for() -> None:
    code = "import appliance; assert 'appliance.ports' not in sys.modules; print(appliance.ApplianceError.code)"
    assert bare(code).stdout == "internal\n"
    for name in appliance.__all__:
        assert getattr(appliance, name)
    assert set(appliance.__all__) <= set(dir(appliance))


def test_a_name_that_is_not_there_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = appliance.nonsense  # type: ignore[attr-defined]
