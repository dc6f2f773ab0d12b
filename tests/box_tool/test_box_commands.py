"""The command line of the box: what it knows itself, what it hands to the Hub, and how it says no."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import appliance
from appliance.box import __main__ as box_main
from appliance.box import shell
from appliance.box.__main__ import COMMANDS, HANDED_OVER, main
from appliance.box.paths import Paths, read_env
from appliance.box.shell import BoxError

pytestmark = pytest.mark.unit

SOURCE = Path(appliance.__file__).parent.parent

# Stands for Docker: says that the Hub runs, and shows what it was asked, its input and whether that is a terminal.
DOCKER = """#!/bin/sh
case "$1 $2" in
  "container inspect") [ -n "$HUB" ] && echo "$HUB" || exit 1 ;;
  "exec --interactive") echo "exec: $*"; [ -t 0 ] && echo terminal || cat; exit 7 ;;
  compose*) echo "compose: $*"; exit 5 ;;
esac
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(DOCKER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def command(*words: str, root: Path, hub: str = "true") -> list[str]:
    code = (f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from pathlib import Path; "
            "from appliance.box.__main__ import main; from appliance.box.paths import Paths; "
            f"sys.exit(main({list(words)!r}, Paths(Path({str(root)!r}))))")
    return ["env", f"HUB={hub}", sys.executable, "-c", code]


def test_help_lists_both_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for name in (*COMMANDS, *HANDED_OVER):
        assert f"  {name} " in said
    assert main([]) == 0
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.endswith(f"{appliance.__version__}\n")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not (SOURCE / "appliance/box" / f"{COMMANDS[name].module}.py").exists():
        pytest.fail(f"{name} has no module")
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"appliance {name}" in capsys.readouterr().out


def test_mistakes_are_sentences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = Paths(tmp_path)
    assert main(["doctor", "--nonsense"], paths) == 1
    assert capsys.readouterr().err == \
        "appliance: Unrecognized arguments: --nonsense. See “appliance doctor --help”.\n"
    assert main(["--nonsense"], paths) == 1
    assert "There is no option --nonsense" in capsys.readouterr().err


def test_a_command_of_the_hub_keeps_its_input_and_status(docker: Path, tmp_path: Path) -> None:
    done = subprocess.run(command("user", "add", "josé d", "--password-stdin", root=tmp_path), input="secret\n", text=True,
                          capture_output=True, check=False, timeout=60)
    assert done.returncode == 7
    assert done.stdout == ("exec: exec --interactive --env APPLIANCE_HANDED_OVER=yes appliance-hub appliance "
                           "user add josé d --password-stdin\nsecret\n")


def test_a_command_of_the_hub_has_the_terminal(docker: Path, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(command("token", "ada", root=tmp_path), stdin=terminal, stdout=terminal, stderr=terminal)
    assert process.wait(60) == 7
    os.close(terminal)
    said = os.read(controller, 4096).decode()
    os.close(controller)
    assert "--tty appliance-hub appliance token ada" in said
    assert "terminal" in said


def test_the_container_has_the_name_that_the_box_has(docker: Path, tmp_path: Path) -> None:
    (tmp_path / "etc/appliance").mkdir(parents=True)
    (tmp_path / "etc/appliance/appliance.env").write_text("APPLIANCE_NAME=lab2\n")
    done = subprocess.run(command("token", "ada", root=tmp_path), stdin=subprocess.DEVNULL, text=True, capture_output=True,
                          check=False, timeout=60)
    assert "lab2-hub appliance token ada" in done.stdout


def test_a_hub_that_does_not_run_gets_a_container_of_its_own(docker: Path, tmp_path: Path) -> None:
    source = tmp_path / "opt/appliance/current/source"
    source.mkdir(parents=True)
    (source / "compose.yaml").write_text("services: {}\n")
    (source.parent / "release.env").write_text("APPLIANCE_HUB_IMAGE=sha256:1\n")
    done = subprocess.run(command("user", "list", root=tmp_path, hub="false"), stdin=subprocess.DEVNULL, text=True,
                          capture_output=True, check=False, timeout=60)
    assert done.returncode == 5
    assert done.stdout.strip().endswith(
        "run --rm --no-deps --env APPLIANCE_HANDED_OVER=yes --no-TTY hub appliance user list")


def test_without_a_box_a_command_of_the_hub_is_a_sentence(docker: Path, tmp_path: Path) -> None:
    done = subprocess.run(command("user", "list", root=tmp_path, hub=""), stdin=subprocess.DEVNULL, text=True,
                          capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("appliance: “user” is a command of the Hub, and no box is installed here.")


def test_without_docker_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shell, "find", lambda program: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["frobnicate"], Paths(tmp_path)) == 1
    assert "“frobnicate” is no command of this machine's side" in capsys.readouterr().err


def test_what_needs_root_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shell, "is_root", lambda: False)
    assert main(["support-bundle"]) == 1
    assert capsys.readouterr().err == \
        "appliance: “appliance support-bundle” has to be run as root. Run: sudo appliance support-bundle\n"
    assert main(["user", "list"]) == 1
    assert "sudo appliance user" in capsys.readouterr().err


def test_errors_are_sentences_and_debug_shows_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    def run(*_: object) -> int:
        raise BoxError("The disk is full.", "Make space.", evidence="No space left on device")

    from appliance.box import doctor

    monkeypatch.setattr(doctor, "run", run)
    assert main(["doctor"], Paths(tmp_path)) == 1
    assert capsys.readouterr().err == "appliance: The disk is full. Make space.\n    No space left on device\n"
    with pytest.raises(BoxError):
        main(["doctor", "--debug"], Paths(tmp_path))
    monkeypatch.setattr(doctor, "run", lambda *_: 1 // 0)
    assert main(["doctor"], Paths(tmp_path)) == 1
    assert "This should not have happened (ZeroDivisionError" in capsys.readouterr().err


def test_a_module_that_is_not_in_this_release(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(COMMANDS, "fly", box_main.Command("wings", "fly", root=False))
    assert main(["fly"]) == 1
    assert "This release has no command “fly”" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- shell --
def test_programs_that_fail_are_results_or_sentences() -> None:
    assert shell.run(["sh", "-c", "echo hello; cat"], input="you").stdout == "hello\nyou"
    assert shell.run(["no-such-program"], check=False).returncode == 127
    slow = shell.run(["sleep", "5"], check=False, timeout_s=0.1)
    assert (slow.returncode, slow.words) == (124, "sleep did not answer within 0.1 seconds")
    with pytest.raises(BoxError) as failed:
        shell.run(["sh", "-c", "echo first >&2; echo The reason. >&2; exit 3"])
    assert failed.value.sentence == "“sh -c echo first >&2; echo The reason. >&2; exit 3” failed: The reason."


def test_a_file_is_whole_or_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new" / "file"
    shell.write_file(file, "one", 0o600)
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("one", 0o600)

    def broken(_: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="no space"):
        shell.write_file(file, "two")
    assert file.read_text() == "one"
    assert list(file.parent.iterdir()) == [file]


def test_env_files_as_compose_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "x.env"
    file.write_text("# comment\nA=1\nexport B='two words'  # said\nC=\"3\"\nD = 4 # four\nE=a#b\nnonsense\n1X=2\nF=\nG='it\n")
    assert read_env(file) == {"A": "1", "B": "two words", "C": "3", "D": "4", "E": "a#b", "F": "", "G": "'it"}
    assert read_env(tmp_path / "none") == {}


def test_the_wrapper_is_the_one_the_playbook_installs_and_runs_the_current_release(tmp_path: Path) -> None:
    assert (SOURCE / "ansible/roles/hub/files/appliance").read_text() == shell.WRAPPER
    wrapper = tmp_path / "appliance"
    release = tmp_path / "release"
    release.mkdir()
    (release / "source").symlink_to(SOURCE)
    python = Path(sys.executable).resolve()   # the one below the venv, for which the package is not installed
    wrapper.write_text(shell.WRAPPER.replace("/opt/appliance/current", str(release))
                       .replace("/usr/bin/python3", str(python)))
    wrapper.chmod(0o755)
    done = subprocess.run([wrapper, "--version"], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{appliance.__version__}\n")
    (release / "source").unlink()
    done = subprocess.run([wrapper, "--version"], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert done.returncode == 1
    assert "There is no whole release" in done.stderr


def test_the_report_is_json_alone_on_stdout(tmp_path: Path) -> None:
    done = subprocess.run(command("doctor", "--json", root=tmp_path), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    assert done.stderr == ""
