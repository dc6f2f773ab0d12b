"""The page about services names every key there is, and none that is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from appliance.domain import service
from appliance.hub.servicespecs import ServiceSpecs

pytestmark = pytest.mark.unit

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "services.rst").read_text()


def test_every_key_is_in_the_table() -> None:
    table = PAGE.split("What is said of it")[1].split("In a container")[0]
    rows = re.findall(r"^   \* - (``.*)$", table, re.MULTILINE)
    assert {key for row in rows for key in re.findall(r"``(\w+)``", row)} == set(service._READERS) - {"oauth_roles"}


def test_every_variable_is_one_that_is_given() -> None:
    said = set(re.findall(r"JUPYTERHUB_\w+", PAGE.split("What it is told")[1].split("What it may")[0]))
    given = set(re.findall(r'"(JUPYTERHUB_\w+)"', Path(ServiceSpecs.of.__code__.co_filename).read_text()))
    assert said <= given


def test_the_number_of_containers_is_right() -> None:
    from appliance.spawners.docker_network import Bridge

    assert len(list(Bridge.parse("n", "n", "10.77.0.0/16").service_addresses())) == 12
    assert "Twelve services can be containers" in PAGE
