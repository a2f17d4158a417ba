"""Who calls: people and programs with roles, and their accounts.

Without accounts (a service on loopback) everybody who reaches it is this machine's administrator.
An account is never removed, because labels carry its name: it is disabled, and may be ended, which
takes its password, logins and tokens and keeps the name taken.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from visionloop.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    RefusedError,
)
from visionloop_labeling.database import insert_new
from visionloop_labeling.schema import Account, ApiToken, Login

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,99}")
# Names that others speak under.
_RESERVED: Final = frozenset({"local", "system"})


class Role(StrEnum):
    """What somebody may do; each role may do all that those before it may."""

    SERVICE = "service"  # programs: send images and labels, read exports and snapshots
    LABELLER = "labeller"  # people: label, skip, flag
    REVIEWER = "reviewer"  # decide disputes, retract, change classes
    ADMIN = "admin"  # datasets, imports, quarantine, accounts


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from; `name` is the author of what it says."""

    name: str
    role: Role
    account: int | None = None  # its row; None without accounts

    def may(self, role: Role) -> bool:
        """Whether the caller has at least this role."""
        order = list(Role)
        return order.index(self.role) >= order.index(role)


# Who everybody is on a service without accounts.
LOCAL: Final = Caller("local", Role.ADMIN)


def may_review(caller: Caller) -> bool:
    """Whether the caller may decide what waits for a reviewer; a program speaks for whom it likes.

    What it says as an app decides nothing: that is the label log's rule.
    """
    return caller.role is Role.SERVICE or caller.may(Role.REVIEWER)


def spoken_by(caller: Caller, author: str, author_kind: str) -> str:
    """The author of a label that the caller sends, who may have named one.

    People speak for themselves, as humans. Programs and administrators hand on what others said.
    Raises PermissionDeniedError.
    """
    if caller.account is None:
        return author
    if caller.role in (Role.SERVICE, Role.ADMIN):
        return author or caller.name
    if author not in ("", caller.name):
        raise PermissionDeniedError(
            f"{caller.name} is a {caller.role} and labels as {caller.name}; leave author out "
            "(a service or an administrator may name another)"
        )
    if author_kind != "human":
        raise PermissionDeniedError(
            f"{caller.name} is a {caller.role}, whose labels are a human's; leave author_kind out "
            "(a service or an administrator may send those of imports, apps and models)"
        )
    return caller.name


def add(session: Session, name: str, role: Role, stored: str = "") -> Account:
    """A new account. `stored` is what `passwords.new` gave; without it there are tokens only.

    Raises InvalidInputError, and ConflictError where the name is taken.
    """
    if not is_name(name) or name in _RESERVED:
        raise InvalidInputError(
            f"{name[:100]!r} is not a usable account name; use 1 to 100 of a-z, 0-9 and . _ @ + -, "
            "beginning with a letter or digit",
            field="name",
        )
    wanted = {
        "name": name,
        "role": role.value,
        "password": stored,
        "disabled": False,
        "created": datetime.now(UTC),
    }
    if not insert_new(session, Account, wanted):
        raise ConflictError(f"there is an account {name} already; names are never used again")
    return find(session, name)


def is_name(name: str) -> bool:
    """Whether an account could be named so; nothing else is looked up."""
    return _NAME.fullmatch(name) is not None


def find(session: Session, name: str, *, lock: bool = False) -> Account:
    """The account, locked together with all others. Raises NotFoundError.

    All rows in one order, so that two administrators who disable one another at once neither both
    succeed nor wait for one another for ever; there are few accounts and fewer changes.
    """
    if lock:
        session.execute(select(Account.id).order_by(Account.id).with_for_update())
    query = select(Account).where(Account.name == name)
    found = session.scalar(query) if is_name(name) else None
    if found is None:
        raise NotFoundError(f"there is no account {name[:100]!a}")
    return found


def listed(session: Session) -> list[Account]:
    """All accounts by name."""
    return list(session.scalars(select(Account).order_by(Account.name)))


def change(
    session: Session, account: Account, *, role: Role | None = None, disabled: bool | None = None
) -> None:
    """Gives another role, disables or enables a locked account.

    Raises RefusedError for the last administrator.
    """
    weakened = (role is not None and role is not Role.ADMIN) or bool(disabled)
    if weakened and account.role == Role.ADMIN and not account.disabled:
        _keep_an_administrator(session, account)
    if role is not None:
        account.role = role.value
    if disabled is not None:
        account.disabled = disabled
        if disabled:
            sign_out(session, account)


def set_password(session: Session, account: Account, stored: str) -> None:
    """Takes what `passwords.new` gave and signs out every browser."""
    account.password = stored
    sign_out(session, account)


def end(session: Session, account: Account) -> None:
    """Ends the account for good; its name stays with what it labelled."""
    change(session, account, disabled=True)
    account.password = ""
    session.execute(delete(ApiToken).where(ApiToken.account_id == account.id))


def sign_out(session: Session, account: Account) -> None:
    """Signs out every browser of the account."""
    session.execute(delete(Login).where(Login.account_id == account.id))


def _keep_an_administrator(session: Session, account: Account) -> None:
    others = select(func.count()).where(
        Account.role == Role.ADMIN.value, Account.disabled.is_(False), Account.id != account.id
    )
    if not session.scalar(others):
        raise RefusedError(
            f"{account.name} is the last administrator; make another one first, or nobody could"
        )
