"""How often somebody may ask: buckets that refill, and patience with wrong passwords that runs out.

Both live in this process's memory: each replica counts for itself, and a restart forgets. That is
the price of costing no database write per request; replicas multiply what is allowed.
"""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from visionloop.errors import OverloadedError

_Value = TypeVar("_Value")
Clock = Callable[[], float]

REMEMBERED: Final = 10_000  # accounts and addresses; beyond, the longest unseen are forgotten

FREE_TRIES: Final = 5  # wrong passwords of one account from one address before it has to wait
FIRST_WAIT: Final = 2.0  # seconds; twice as long after each further one
LONGEST_WAIT: Final = 900.0
FORGOTTEN_AFTER: Final = 3600.0
ADDRESS_TRIES: Final = 30.0  # of one address at once, over all accounts
ADDRESS_TRIES_PER_SECOND: Final = 0.1


class _Memory(Generic[_Value]):
    """Values by key, at most REMEMBERED of them."""

    def __init__(self) -> None:
        self._values: OrderedDict[object, _Value] = OrderedDict()

    def get(self, key: object) -> _Value | None:
        return self._values.get(key)

    def put(self, key: object, value: _Value) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > REMEMBERED:
            self._values.popitem(last=False)

    def drop(self, key: object) -> None:
        self._values.pop(key, None)


class Buckets:
    """For each key a bucket of `burst` that refills with `per_second`; 0 per second: no limit."""

    def __init__(self, per_second: float, burst: float, clock: Clock = time.monotonic) -> None:
        self._rate = per_second
        self._burst = burst
        self._clock = clock
        self._levels: _Memory[tuple[float, float]] = _Memory()

    def take(self, key: object) -> float:
        """Takes one; gives 0, or the seconds until there is one to take."""
        if not self._rate:
            return 0.0
        now = self._clock()
        level, at = self._levels.get(key) or (self._burst, now)
        level = min(self._burst, level + (now - at) * self._rate)
        if level < 1.0:
            return (1.0 - level) / self._rate
        self._levels.put(key, (level - 1.0, now))
        return 0.0


@dataclass(frozen=True, slots=True)
class _Failures:
    count: int
    last: float


class SignInThrottle:
    """Slows the guessing of passwords, for each account and address, and for each address."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._failures: _Memory[_Failures] = _Memory()
        self._addresses = Buckets(ADDRESS_TRIES_PER_SECOND, ADDRESS_TRIES, clock)

    def begin(self, name: str, address: str) -> None:
        """Counts a try as wrong until `succeeded`. Raises OverloadedError when it comes too soon.

        Counted before the password is looked at, so that many tries at once are no way around.
        """
        place = _network(address)
        now = self._clock()
        before = self._failures.get((name, place)) or _Failures(0, now)
        if now - before.last > FORGOTTEN_AFTER:
            before = _Failures(0, now)
        wait = before.last + _wait(before.count) - now
        if wait <= 0.0:
            wait = self._addresses.take(place)
        if wait > 0.0:
            raise OverloadedError(
                f"too many wrong passwords; try again in {_words(wait)}", retry_after_seconds=wait
            )
        self._failures.put((name, place), _Failures(before.count + 1, now))

    def succeeded(self, name: str, address: str) -> None:
        """The password was right: what was wrong before is forgotten."""
        self._failures.drop((name, _network(address)))


def _wait(failures: int) -> float:
    beyond = failures - FREE_TRIES
    return 0.0 if beyond < 0 else min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(beyond, 20))


def _network(address: str) -> str:
    """An IPv6 caller owns its whole /64, an IPv4 one a single address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network(f"{address.partition('%')[0]}/64", strict=False))


def _words(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds > 90 else f"{max(1, round(seconds))} s"
