"""Slows down who guesses passwords, without letting a stranger lock anybody out.

Three counts, each of failed sign-ins:

- by account and address, strictly: five are free, then each costs a wait that doubles up to five minutes;
- by address, generously, because a whole class shares the school's one address;
- by account, from wherever: costs a delay of seconds and is never a refusal, or a stranger with many addresses could
  keep the owner out.

A browser that has signed in to the account before is counted by itself and by nothing that others do.
Counts live in memory, in tables of bounded size: a restart forgives.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from appliance.errors import LoginThrottled

FREE_TRIES = 5
FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 300.0
FORGOTTEN_S = 3600.0           # since the last failure
PENDING_S = 60.0               # a try whose end nobody told
ADDRESS_TRIES, ADDRESS_TRIES_PER_S = 500.0, 1.0
ACCOUNT_FREE_TRIES, ACCOUNT_HALF_LIFE_S = 10.0, 900.0
LONGEST_DELAY_S = 8.0
TABLE_SIZE = 10_000
_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(slots=True)
class _Pair:
    failures: int = 0
    failed_at: float = -math.inf
    pending: int = 0            # tries that have begun, so that a thousand at once are not all the first
    pending_at: float = -math.inf


@dataclass(slots=True)
class _Level:
    """A count that falls by itself."""

    value: float
    at: float


class Throttle:
    """clock: seconds that only grow. Names and addresses may be anything a browser sent."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pairs: OrderedDict[tuple[str, str, bool], _Pair] = OrderedDict()
        self._addresses: OrderedDict[str, _Level] = OrderedDict()
        self._accounts: OrderedDict[str, _Level] = OrderedDict()

    def check(self, name: str, address: str, known_device: bool) -> float:
        """Return the seconds to wait before looking at the password, 0 being none. Raises LoginThrottled.

        Call `failed` or `succeeded` afterwards. known_device: the browser proved that it has signed in to `name` before.
        """
        now = self._clock()
        key = _key(name, address, known_device)
        pair = self._pairs.get(key) or _Pair()
        if now - pair.failed_at > FORGOTTEN_S:
            pair.failures = 0
        if now - pair.pending_at > PENDING_S:
            pair.pending = 0
        tries = pair.failures + pair.pending
        wait_s = pair.failed_at + _pair_wait(pair.failures) - now
        if tries >= FREE_TRIES and (pair.pending or wait_s > 0):  # once past the free ones, one try at a time
            raise LoginThrottled(math.ceil(max(1.0, wait_s)))
        if not known_device:
            over = self._address_level(key[1], now) + 1 - ADDRESS_TRIES
            if over > 0:
                raise LoginThrottled(max(1, math.ceil(over / ADDRESS_TRIES_PER_S)))
        pair.pending += 1
        pair.pending_at = now
        _put(self._pairs, key, pair)
        return 0.0 if known_device else self._account_delay(key[0], now)

    def failed(self, name: str, address: str, known_device: bool) -> None:
        now = self._clock()
        key = _key(name, address, known_device)
        pair = self._pairs.get(key) or _Pair()
        pair.pending = max(0, pair.pending - 1)
        pair.failures += 1
        pair.failed_at = now
        _put(self._pairs, key, pair)
        if not known_device:
            _put(self._addresses, key[1], _Level(self._address_level(key[1], now) + 1, now))
            _put(self._accounts, key[0], _Level(self._account_level(key[0], now) + 1, now))

    def succeeded(self, name: str, address: str, known_device: bool) -> None:
        """Forgive this browser. What others failed at stays counted."""
        self._pairs.pop(_key(name, address, known_device), None)

    def _address_level(self, address: str, now: float) -> float:
        level = self._addresses.get(address)
        return 0.0 if level is None else max(0.0, level.value - (now - level.at) * ADDRESS_TRIES_PER_S)

    def _account_level(self, name: str, now: float) -> float:
        level = self._accounts.get(name)
        return 0.0 if level is None else float(level.value * 0.5 ** ((now - level.at) / ACCOUNT_HALF_LIFE_S))

    def _account_delay(self, name: str, now: float) -> float:
        over = self._account_level(name, now) - ACCOUNT_FREE_TRIES
        return 0.0 if over <= 0 else min(LONGEST_DELAY_S, over / 10)


def _pair_wait(failures: int) -> float:
    over = failures - FREE_TRIES
    return 0.0 if over < 0 else min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(over, 16))


def _key(name: str, address: str, known_device: bool) -> tuple[str, str, bool]:
    return name[:64], _network(address[:64]), known_device


@lru_cache(1024)
def _network(address: str) -> str:
    """Return what one person has of addresses: one of IPv4, a /64 of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((int(parsed), 64), strict=False))
    return str(parsed)


def _put(table: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > TABLE_SIZE:
        table.popitem(last=False)
