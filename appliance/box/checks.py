"""One check's result, and running many of them so that none ends the others. Used by preflight and doctor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from appliance.box.shell import say

Status = Literal["ok", "warn", "fail"]
_ORDER: tuple[Status, ...] = ("ok", "warn", "fail")
_MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


@dataclass(frozen=True)
class Check:
    """What one check found. `remedy` is empty where nothing has to be done."""

    code: str
    status: Status
    sentence: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        return {"code": self.code, "status": self.status, "sentence": self.sentence, "remedy": self.remedy}


def ok(code: str, sentence: str) -> Check:
    return Check(code, "ok", sentence)


def warn(code: str, sentence: str, remedy: str) -> Check:
    return Check(code, "warn", sentence, remedy)


def fail(code: str, sentence: str, remedy: str) -> Check:
    return Check(code, "fail", sentence, remedy)


def run_all(checks: Iterable[Callable[[], Iterable[Check]]]) -> list[Check]:
    """Run each check; one that breaks becomes a warning with its words, and the others go on."""
    found: list[Check] = []
    for check in checks:
        name = getattr(check, "__name__", None) or getattr(getattr(check, "func", None), "__name__", "check")
        try:
            found += check()
        except Exception as error:  # a check's root: whatever a strange machine does, the others still answer
            code = str(name).strip("_").removeprefix("check_").replace("_", "-")
            found.append(warn(code, f"This could not be checked ({type(error).__name__}: {error}).",
                              "Look at it yourself, or send a support bundle: appliance support-bundle"))
    return found


def worst(checks: Iterable[Check]) -> Status:
    return max((check.status for check in checks), key=_ORDER.index, default="ok")


def report(checks: Sequence[Check], **more: Any) -> dict[str, Any]:
    """Return the checks as programs read them; `ok` is whether nothing failed."""
    status = worst(checks)
    return {**more, "ok": status != "fail", "status": status, "checks": [check.as_json() for check in checks]}


def say_all(checks: Sequence[Check], *, quiet: bool = False) -> None:
    """Print each as a line, and its remedy below. `quiet` leaves out what is well."""
    for check in checks:
        if check.status == "ok" and quiet:
            continue
        say(f"{_MARKS[check.status]}  {check.code}: {check.sentence}")
        if check.remedy:
            say(f"        {check.remedy}")
