"""Passwords as they are stored: scrypt, with its parameters and salt in the same text.

    scrypt:32768:8:3:<salt>:<digest>        (n, r, p; base64url)

Because the parameters stand there, they can be raised later: a password is digested anew when its
owner next signs in. The price of a check is 0.25 s of one core and 32 MiB, which is the point; so
checks are rare (once per sign-in) and few at a time (`auth`).
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import unicodedata
from dataclasses import dataclass
from typing import Final

from visionloop.errors import InvalidInputError

LEAST: Final = 12  # characters
MOST: Final = 200
_SALT_BYTES: Final = 16
_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Cost:
    """scrypt's parameters: memory is 128·n·r bytes, time grows with p."""

    n: int = 2**15
    r: int = 8
    p: int = 3

    @property
    def memory(self) -> int:
        """Bytes that OpenSSL may take."""
        return 128 * self.r * (self.n + self.p + 2) + 2**20


COST = Cost()


def new(password: str, *, name: str) -> str:
    """What is stored. Raises InvalidInputError; slow, so keep it out of transactions."""
    _check(password, name)
    return digest(password)


def digest(password: str) -> str:
    """What is stored of a password that was checked before."""
    salt = secrets.token_bytes(_SALT_BYTES)
    made = _scrypt(password, salt, COST)
    return f"scrypt:{COST.n}:{COST.r}:{COST.p}:{_text(salt)}:{_text(made)}"


def matches(password: str, stored: str) -> bool:
    """Whether this is the password. Takes as long for an account without one (stored "")."""
    # Nobody's is compared too, so that names cannot be told by the time it takes.
    nobodys = COST, bytes(_SALT_BYTES), bytes(_DIGEST_BYTES)
    cost, salt, wanted = _parse(stored) or nobodys
    found = hmac.compare_digest(_scrypt(password, salt, cost), wanted)
    return found and bool(stored)


def is_weak(stored: str) -> bool:
    """Whether it was stored with other parameters than those of today."""
    parsed = _parse(stored)
    return parsed is not None and parsed[0] != COST


def _check(password: str, name: str) -> None:
    length = len(password)
    if not LEAST <= length <= MOST:
        raise InvalidInputError(
            f"the password has {length} characters; it must have {LEAST} to {MOST}",
            field="password",
        )
    if name.lower() in password.lower() and length < len(name) + LEAST:
        raise InvalidInputError(
            f"the password is mostly the account's name; choose {LEAST} other characters",
            field="password",
        )


def _parse(stored: str) -> tuple[Cost, bytes, bytes] | None:
    try:
        kind, n, r, p, salt, made = stored.split(":")
        if kind != "scrypt":
            return None
        return Cost(int(n), int(r), int(p)), _bytes(salt), _bytes(made)
    except (ValueError, binascii.Error):
        return None


def _scrypt(password: str, salt: bytes, cost: Cost) -> bytes:
    # One form for what looks the same: keyboards differ in how they compose é.
    text = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(
        text, salt=salt, n=cost.n, r=cost.r, p=cost.p, maxmem=cost.memory, dklen=_DIGEST_BYTES
    )


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
