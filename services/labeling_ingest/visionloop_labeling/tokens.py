"""API tokens: secrets by which programs sign in, shown once and kept as digests.

A token speaks for its account, with the account's role and name. When it was used is written down
at most once a minute.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop.errors import NotFoundError, RefusedError
from visionloop_labeling import validation
from visionloop_labeling.schema import Account, ApiToken

PREFIX: Final = "vl_"  # so that scanners for leaked secrets can know one
MOST_PER_ACCOUNT: Final = 50
MOST_DAYS: Final = 3650
_WRITTEN_EVERY: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Found:
    """A token in force."""

    account: Account
    token_id: int
    write_use: bool  # its use is to be written down


def make(
    session: Session, account: Account, name: str, now: datetime, lifetime: timedelta | None
) -> tuple[ApiToken, str]:
    """A new token and its secret, which nobody can show again. Raises RefusedError at the limit."""
    if len(listed(session, account)) >= MOST_PER_ACCOUNT:
        raise RefusedError(
            f"{account.name} has {MOST_PER_ACCOUNT} tokens, the most there may be; revoke some"
        )
    secret = PREFIX + secrets.token_urlsafe(32)
    token = ApiToken(
        account_id=account.id,
        name=validation.text(name, "name")[:100],
        secret_sha256=_digest(secret),
        expires=None if lifetime is None else now + lifetime,
        created=now,
    )
    session.add(token)
    session.flush()
    return token, secret


def listed(session: Session, account: Account | None) -> list[tuple[ApiToken, str]]:
    """Tokens with their account's name, of one account or of all, oldest first."""
    query = select(ApiToken, Account.name).join(Account, ApiToken.account_id == Account.id)
    if account is not None:
        query = query.where(ApiToken.account_id == account.id)
    return [(token, name) for token, name in session.execute(query.order_by(ApiToken.id))]


def revoke(session: Session, token_id: int, owner: int | None) -> None:
    """Ends a token; `owner` bounds it to those of one account. Raises NotFoundError."""
    token = session.get(ApiToken, token_id)
    if token is None or (owner is not None and token.account_id != owner):
        raise NotFoundError(f"there is no token {token_id}")
    session.delete(token)


def find(session: Session, secret: str, now: datetime) -> Found | None:
    """Whom this secret stands for, if it still counts."""
    query = (
        select(ApiToken, Account)
        .join(Account, ApiToken.account_id == Account.id)
        .where(ApiToken.secret_sha256 == _digest(secret))
    )
    row = session.execute(query).one_or_none()
    if row is None:
        return None
    token, account = row
    if account.disabled or (token.expires is not None and now >= token.expires):
        return None
    used = token.last_used
    return Found(account, token.id, write_use=used is None or now - used >= _WRITTEN_EVERY)


def write_use(session: Session, token_id: int, now: datetime) -> None:
    """Writes down that the token was used."""
    token = session.get(ApiToken, token_id)
    if token is not None:
        token.last_used = now


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
