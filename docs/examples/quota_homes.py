"""Homes with a quota of the file system: as DirectoryHomes, and then a limit on what each uid may store."""

from __future__ import annotations

import subprocess
from pathlib import Path

import anyio.to_thread
from traitlets import List, Unicode

from appliance.errors import HomesUnavailable
from appliance.homes.directory import DirectoryHomes


class QuotaHomes(DirectoryHomes):
    """Runs `quota_command` for each home before its server starts; {uid} and {root} are filled in."""

    quota_command = List(
        Unicode(), ["setquota", "-u", "{uid}", "4G", "5G", "0", "0", "{root}"],
        help="Command that sets the quota of one uid. It is run at every start, so it has to be repeatable.",
    ).tag(config=True)

    async def ensure(self, uid: int, user_name: str) -> Path:
        home = await super().ensure(uid, user_name)
        await anyio.to_thread.run_sync(self._set_quota, uid)
        return home

    def _set_quota(self, uid: int) -> None:
        filled = [word.replace("{uid}", str(uid)).replace("{root}", str(self.root)) for word in self.quota_command]
        try:
            subprocess.run(filled, check=True, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", "") or str(error)
            raise HomesUnavailable(action="The quota could not be set; see the evidence.", evidence=said) from error
