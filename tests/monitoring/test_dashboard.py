"""The Grafana dashboard asks only for what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.hub.metrics import Metrics, State

pytestmark = pytest.mark.unit

FILE = Path(__file__).resolve().parents[2] / "ansible/roles/monitoring/files/grafana-dashboard.json"
DASHBOARD = json.loads(FILE.read_text())
# node_exporter 1.x, its collectors that are on by default
NODE = {
    "node_cpu_seconds_total", "node_load1", "node_memory_MemTotal_bytes", "node_memory_MemAvailable_bytes",
    "node_memory_SwapTotal_bytes", "node_memory_SwapFree_bytes", "node_filesystem_avail_bytes", "node_filesystem_size_bytes",
    "node_disk_io_time_seconds_total", "node_network_receive_bytes_total", "node_network_transmit_bytes_total",
}
# Traefik 3 with addServicesLabels, as traefik/static.yml has it
TRAEFIK = {"traefik_service_requests_total", "traefik_open_connections"}
# what appliance doctor leaves for node_exporter's textfile collector
DOCTOR = {
    "appliance_certificate_expiry_seconds", "appliance_backup_age_seconds", "appliance_backup_ok", "appliance_checks_failed"}
_FUNCTIONS = {"avg", "by", "count", "histogram_quantile", "increase", "or", "rate", "sum", "vector"}
_LABELS = {"le", "code", "status", "entrypoint"}


def ours() -> dict[str, set[str]]:
    """Return the labels of every series of our endpoint."""
    metrics = Metrics("1")
    metrics.request("GET", "hub/home", 200, 0.1)
    metrics._failures.labels("out-of-memory").inc()
    found: dict[str, set[str]] = {}
    for line in metrics.render(State(active_users={"24h": 1}, problems=("engine-down",))).decode().splitlines():
        if match := re.match(r"([a-zA-Z_:]\w*)(?:\{(.*)\})? ", line):
            found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def names(expression: str) -> set[str]:
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", expression)
    return set(re.findall(r"[a-zA-Z_]\w*", bare)) - _FUNCTIONS - _LABELS


def test_the_expressions_are_found() -> None:
    assert len(list(expressions())) > 25
    assert {"appliance_servers"} == names('sum by (code) (rate(appliance_servers{phase!="x"}[5m]))')


@pytest.mark.parametrize(("title", "expression"), list(expressions()))
def test_every_metric_that_is_asked_for_exists(title: str, expression: str) -> None:
    unknown = names(expression) - ours().keys() - NODE - TRAEFIK - DOCTOR
    assert names(expression)
    assert not unknown, f"{title} asks for {unknown}"


@pytest.mark.parametrize(("title", "expression"), list(expressions()))
def test_every_label_of_ours_exists(title: str, expression: str) -> None:
    known = ours()
    for name, selector in re.findall(r"(\w+)\{([^}]*)\}", expression):
        if name in known:
            asked = set(re.findall(r'(\w+)(?:=|!=|=~|!~)"', selector)) - {"job"}
            assert asked <= known[name], f"{title} asks {name} for {asked - known[name]}"


def test_panels_stand_beside_and_not_upon_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_it_names_no_data_source_of_somebodys() -> None:
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if "datasource" in panel} == {"${datasource}"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_traefik_tells_what_is_asked_of_it() -> None:
    from appliance.proxies import traefik_files

    text = Path(traefik_files.__file__).read_text()
    assert '"addServicesLabels": True' in text
