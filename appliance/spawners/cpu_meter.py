"""How busy servers are, from two readings of the CPU time each has used."""

from __future__ import annotations

from dataclasses import dataclass

_SHORTEST_S = 0.5       # readings closer than this say nothing
_LONGEST_S = 600.0      # and what was so long ago is not "now"


@dataclass(frozen=True)
class _Reading:
    life: str
    cpu_s: float
    at_s: float
    percent: float | None


class CpuMeter:
    """Keeps one reading per server asked about in the last ten minutes, so one that ended unseen is forgotten."""

    def __init__(self) -> None:
        self._readings: dict[str, _Reading] = {}

    def percent(self, server_id: str, life: str, cpu_s: float, now_s: float) -> float | None:
        """Return percent of one core since the reading before, None for the first one.

        life: what is another one after each start. now_s: of a clock that never goes back.
        """
        self._readings = {key: each for key, each in self._readings.items() if now_s - each.at_s <= _LONGEST_S}
        before = self._readings.get(server_id)
        if before is not None and before.life == life and cpu_s >= before.cpu_s:
            if now_s - before.at_s < _SHORTEST_S:
                return before.percent
            percent = round(100 * (cpu_s - before.cpu_s) / (now_s - before.at_s), 1)
        else:
            percent = None
        self._readings[server_id] = _Reading(life, cpu_s, now_s, percent)
        return percent

    def forget(self, server_id: str) -> None:
        self._readings.pop(server_id, None)

    def __len__(self) -> int:
        return len(self._readings)
