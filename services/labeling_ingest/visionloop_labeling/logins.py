"""Browsers that somebody is signed in with.

The browser holds a secret of 256 bits in a cookie, the table its digest. A login ends 12 hours
after its last use and 30 days after its beginning. Use is written down once in 10 minutes, so that
reading a page is no write; the 12 hours may be shorter by as much.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from visionloop_labeling.schema import Account, Login

IDLE: Final = timedelta(hours=12)
LONGEST: Final = timedelta(days=30)
_WRITTEN_EVERY: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Found:
    """A login in force."""

    account: Account
    extend: bool  # its use is to be written down


def begin(session: Session, account: Account, now: datetime) -> str:
    """Signs a browser in; gives the cookie's secret."""
    session.execute(delete(Login).where(Login.expires <= now))
    secret = secrets.token_urlsafe(32)
    session.add(
        Login(secret_sha256=_digest(secret), account_id=account.id, created=now, expires=now + IDLE)
    )
    return secret


def find(session: Session, secret: str, now: datetime) -> Found | None:
    """Who is signed in with this secret, if it still counts."""
    query = (
        select(Login, Account)
        .join(Account, Login.account_id == Account.id)
        .where(Login.secret_sha256 == _digest(secret))
    )
    row = session.execute(query).one_or_none()
    if row is None:
        return None
    login, account = row
    if account.disabled or now >= login.expires:
        return None
    until = _until(login.created, now)
    return Found(account, extend=until - login.expires >= _WRITTEN_EVERY)


def extend(session: Session, secret: str, now: datetime) -> None:
    """Writes down that the login is in use."""
    login = session.get(Login, _digest(secret))
    if login is not None:
        # No later than another replica wrote meanwhile, and never beyond the longest.
        login.expires = max(login.expires, _until(login.created, now))


def end(session: Session, secret: str) -> None:
    """Signs this browser out."""
    session.execute(delete(Login).where(Login.secret_sha256 == _digest(secret)))


def csrf_token(secret: str) -> str:
    """What a page of ours knows and another site's page does not; it says nothing of the secret."""
    return hmac.new(secret.encode(), b"csrf", hashlib.sha256).hexdigest()


def _until(created: datetime, now: datetime) -> datetime:
    return min(now + IDLE, created + LONGEST)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
