"""Why a server ended or could not start: from what the engine says and the last log lines to one class of error."""

from __future__ import annotations

from appliance.domain.limits import format_bytes
from appliance.domain.server import Failure
from appliance.errors import (
    AppExited,
    AppGone,
    ApplianceError,
    DiskFull,
    HomeFull,
    ImageBroken,
    OutOfMemory,
    SpawnError,
)
from appliance.log import redact
from appliance.ports import ActualServer

_INIT = "[FATAL tini"      # the container's init could not start the command


def to_failure(error: ApplianceError) -> Failure:
    return Failure(error.code, error.sentence, error.action, redact(error.evidence))


def why_ended(actual: ActualServer | None, logs: str, *, mem_limit_bytes: int | None = None) -> ApplianceError:
    """Classify a server that should run and does not. actual: None when nothing is left of it."""
    if actual is None:
        return AppGone()
    evidence = f"exit code {actual.exit_code}. {actual.error}\n{logs}".strip()
    if actual.oom_killed:
        limit = f" ({format_bytes(mem_limit_bytes)})" if mem_limit_bytes else ""
        return OutOfMemory(
            f"Your server used all the memory it may have{limit} and was ended. Your saved files are safe.", evidence=evidence)
    said = f"{actual.error}\n{logs}".lower()
    if "disk quota exceeded" in said:
        return HomeFull(evidence=evidence)
    if "no space left on device" in said:
        return DiskFull(evidence=evidence)
    if actual.exit_code in (126, 127) and (not logs.strip() or _INIT in logs):
        return ImageBroken(evidence=evidence)
    if actual.exit_code in (137, 143) or actual.exit_code is None:
        return AppGone(evidence=evidence)
    if actual.error:
        return SpawnError(evidence=evidence)
    return AppExited(
        f"Your server ended by itself (exit code {actual.exit_code}). Your saved files are safe.", evidence=evidence)
