"""Guessing is slow, and a stranger locks nobody out."""

from __future__ import annotations

import pytest

from appliance.errors import LoginThrottled
from appliance.hub import throttle as module
from appliance.hub.throttle import Throttle

pytestmark = pytest.mark.unit

HOME, SCHOOL, STRANGER = "192.0.2.7", "198.51.100.1", "203.0.113.66"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(clock)


def fail(throttle: Throttle, name: str, address: str, times: int = 1, *, known: bool = False) -> int:
    """Return how many of the tries got as far as a password being looked at."""
    looked = 0
    for _ in range(times):
        try:
            throttle.check(name, address, known)
        except LoginThrottled:
            continue
        throttle.failed(name, address, known)
        looked += 1
    return looked


def test_a_few_typing_errors_cost_nothing(throttle: Throttle) -> None:
    fail(throttle, "alice", HOME, 4)
    assert throttle.check("alice", HOME, False) == 0
    throttle.succeeded("alice", HOME, False)
    assert fail(throttle, "alice", HOME, 10) == 5


def test_waits_double_and_end_at_five_minutes(throttle: Throttle, clock: Clock) -> None:
    fail(throttle, "alice", STRANGER, 5)
    waits = []
    for _ in range(9):
        with pytest.raises(LoginThrottled) as refused:
            throttle.check("alice", STRANGER, False)
        waits.append(refused.value.retry_after_s)
        clock.now += waits[-1]
        assert fail(throttle, "alice", STRANGER, 3) == 1
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_day_of_guessing_from_one_address_is_a_few_hundred_tries(throttle: Throttle, clock: Clock) -> None:
    looked = 0
    for _ in range(24 * 60):
        clock.now += 60
        looked += fail(throttle, "alice", STRANGER, 100)
    assert looked < 300


def test_an_hour_of_quiet_forgives(throttle: Throttle, clock: Clock) -> None:
    fail(throttle, "alice", HOME, 6)
    clock.now += 3601
    assert fail(throttle, "alice", HOME, 10) == 5


def test_stranger_cannot_lock_the_owner_out(throttle: Throttle) -> None:
    assert fail(throttle, "alice", STRANGER, 200) == 5
    assert throttle.check("alice", HOME, True) == 0      # a browser that knows the account
    assert throttle.check("alice", SCHOOL, False) == 0   # a new one, from elsewhere


def test_stranger_with_many_addresses_costs_a_new_browser_seconds_and_a_known_one_nothing(throttle: Throttle) -> None:
    for number in range(200):
        fail(throttle, "alice", f"203.0.113.{number}")
    assert throttle.check("alice", HOME, True) == 0
    assert 0 < throttle.check("alice", SCHOOL, False) <= 8


def test_delay_of_an_account_grows_and_falls(throttle: Throttle, clock: Clock) -> None:
    delays = []
    for number in range(100):
        fail(throttle, "alice", f"203.0.113.{number}")
        delays.append(throttle.check("alice", f"198.51.100.{number}", False))
    assert delays == sorted(delays)
    assert delays[9] == 0
    assert delays[-1] == 8
    clock.now += 4 * 3600
    assert throttle.check("alice", HOME, False) == 0


def test_known_browser_of_the_owner_gets_in_behind_the_attackers_own_address(throttle: Throttle) -> None:
    fail(throttle, "alice", SCHOOL, 200)
    assert throttle.check("alice", SCHOOL, True) == 0


def test_known_browser_may_not_guess_for_ever_either(throttle: Throttle) -> None:
    assert fail(throttle, "alice", HOME, 200, known=True) == 5


def test_class_behind_one_address_signs_in_although_some_mistype(throttle: Throttle) -> None:
    for number in range(40):
        fail(throttle, f"student{number}", SCHOOL, 3)
    for number in range(40):
        assert throttle.check(f"student{number}", SCHOOL, False) == 0
        throttle.succeeded(f"student{number}", SCHOOL, False)


def test_one_password_tried_on_every_name_ends(throttle: Throttle, clock: Clock) -> None:
    assert sum(fail(throttle, f"name{number}", STRANGER) for number in range(2000)) == 500
    with pytest.raises(LoginThrottled) as refused:
        throttle.check("alice", STRANGER, False)
    assert refused.value.retry_after_s == 1
    assert throttle.check("alice", STRANGER, True) == 0
    clock.now += 60
    assert throttle.check("alice", STRANGER, False) == 0


def test_thousand_tries_at_once_are_not_all_the_first(throttle: Throttle) -> None:
    begun = 0
    for _ in range(1000):
        try:
            throttle.check("alice", STRANGER, False)
            begun += 1
        except LoginThrottled:
            pass
    assert begun == 5


def test_tries_whose_end_nobody_told_are_forgotten(throttle: Throttle, clock: Clock) -> None:
    for _ in range(5):
        throttle.check("alice", HOME, False)
    clock.now += 61
    assert throttle.check("alice", HOME, False) == 0


def test_addresses_of_one_ipv6_network_are_one(throttle: Throttle) -> None:
    assert sum(fail(throttle, "alice", f"2001:db8:1:2::{number:x}") for number in range(100)) == 5
    assert fail(throttle, "alice", "2001:db8:1:3::1") == 1
    assert fail(throttle, "bob", "::ffff:203.0.113.66", 5) == 5
    assert fail(throttle, "bob", "203.0.113.66", 5) == 0


def test_tables_do_not_grow_without_end(throttle: Throttle, clock: Clock) -> None:
    for number in range(module.TABLE_SIZE * 2):
        clock.now += 1
        fail(throttle, f"{number}" * 100, f"no address at all {number}" * 100)
    tables = (throttle._pairs, throttle._addresses, throttle._accounts)
    assert all(len(table) <= module.TABLE_SIZE for table in tables)
    assert max(len(name) + len(address) for name, address, _ in throttle._pairs) <= 128
