"""Who calls, and whether they may: asked once per request of either face, before it is read.

A caller brings a bearer token (programs) or a login's cookie (browsers). Both are looked up in the
database each time, so that a disabled account is cut off at once on every replica; the price is one
indexed read, about 2 ms of a core. Without accounts everybody is `accounts.LOCAL`.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop.errors import (
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
    VisionloopError,
)
from visionloop.telemetry import labeling as metrics
from visionloop_labeling import logins, passwords, tokens
from visionloop_labeling.accounts import LOCAL, Caller, Role, is_name
from visionloop_labeling.database import Database
from visionloop_labeling.permissions import Rule
from visionloop_labeling.quotas import Quotas
from visionloop_labeling.readiness import Readiness
from visionloop_labeling.schema import Account
from visionloop_labeling.throttle import Buckets, SignInThrottle

_Result = TypeVar("_Result")

SCHEME: Final = "bearer "
CHECKS_AT_ONCE: Final = 2  # of passwords; each takes 32 MiB and a core
BURST_SECONDS: Final = 10.0  # of the rate, which may come at once
# Who calls an RPC, for whoever answers it; set in the task of the call.
CALLER: ContextVar[Caller] = ContextVar("caller")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A caller, and how they are known: `login` is a browser's secret, "" for a program."""

    caller: Caller
    login: str = ""

    @property
    def csrf(self) -> str:
        """What a browser must send along to change something; "" where nothing is needed."""
        return logins.csrf_token(self.login) if self.login else ""


class Gate:
    """Made and used on one event loop."""

    def __init__(
        self,
        database: Database,
        *,
        accounts: bool = False,
        requests_per_second: float = 0.0,
        quotas: Quotas | None = None,
        readiness: Readiness | None = None,
    ) -> None:
        """Without accounts everybody may do everything."""
        self.accounts = accounts
        self.readiness = readiness or Readiness()
        self.quotas = quotas or Quotas(database)
        self._database = database
        self._rates = Buckets(requests_per_second, requests_per_second * BURST_SECONDS)
        self._throttle = SignInThrottle()
        self._checks = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._writes: dict[object, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Waits for what is still being written."""
        await asyncio.gather(*self._writes.values(), return_exceptions=True)
        await self.quotas.close()

    async def known(self, authorization: str, login: str) -> SignedIn:
        """Who brings this Authorization header, or else this cookie ("" is none).

        Raises UnauthenticatedError.
        """
        self.readiness.asked()
        if not self.accounts:
            return SignedIn(LOCAL)
        if authorization:
            return await self._by_token(authorization)
        if login:
            return await self._by_login(login)
        raise UnauthenticatedError(
            "this service wants to know who calls: sign in at /login, or send the header "
            "(gRPC: the metadata) `authorization: Bearer TOKEN`"
        )

    def admit(self, rule: Rule, caller: Caller) -> None:
        """Raises PermissionDeniedError, or OverloadedError for somebody who asks too often."""
        role = rule.role or Role.SERVICE
        if not caller.may(role):
            raise PermissionDeniedError(
                f"{caller.name} is a {caller.role}; this needs the role {role}"
            )
        if caller.account is not None:
            wait = self._rates.take(caller.account)
            if wait:
                raise OverloadedError(
                    f"{caller.name} sends requests faster than this service allows "
                    "(--requests-per-second); slow down",
                    retry_after_seconds=wait,
                )

    async def sign_in(self, name: str, password: str, address: str) -> SignedIn:
        """Signs a browser in. Raises UnauthenticatedError, or OverloadedError after wrong ones."""
        try:
            self._throttle.begin(name, address)
        except OverloadedError:
            metrics.SIGN_INS.labels("throttled").inc()
            raise
        before = await asyncio.to_thread(self._stored, name)
        async with self._checks:
            right = await asyncio.to_thread(passwords.matches, password, before)
        metrics.SIGN_INS.labels("succeeded" if right else "failed").inc()
        if not right:
            _log.warning("a sign-in failed", extra={"account": name[:100], "peer": address})
            # One sentence for a wrong name and a wrong password: which names exist is no news.
            raise UnauthenticatedError("the name or the password is wrong")
        self._throttle.succeeded(name, address)
        stronger = ""
        if passwords.is_weak(before):
            async with self._checks:
                stronger = await asyncio.to_thread(passwords.digest, password)

        def work() -> SignedIn:
            with self._database.write() as session:
                account = session.scalar(_usable(name).with_for_update())
                if account is None or account.password != before:
                    raise UnauthenticatedError("the account was changed just now; sign in again")
                if stronger:
                    account.password = stronger
                return SignedIn(_caller(account), logins.begin(session, account, _now()))

        signed_in = await asyncio.to_thread(work)
        _log.info("signed in", extra={"account": name, "peer": address})
        return signed_in

    async def check_password(self, caller: Caller, password: str, address: str) -> str:
        """What is stored of the caller's password, if this is it; it may be another a moment later.

        Raises UnauthenticatedError, and OverloadedError as `sign_in`.
        """
        self._throttle.begin(caller.name, address)
        before = await asyncio.to_thread(self._stored, caller.name)
        async with self._checks:
            right = await asyncio.to_thread(passwords.matches, password, before)
        if not right:
            raise UnauthenticatedError("the password is wrong")
        self._throttle.succeeded(caller.name, address)
        return before

    async def new_password(self, password: str, name: str) -> str:
        """What is stored of a new password. Raises InvalidInputError."""
        async with self._checks:
            return await asyncio.to_thread(passwords.new, password, name=name)

    async def sign_out(self, login: str) -> None:
        """Signs this browser out."""

        def work() -> None:
            with self._database.write() as session:
                logins.end(session, login)

        await asyncio.to_thread(work)

    def _stored(self, name: str) -> str:
        """What is stored of the account's password, "" for none and for nobody."""
        if not is_name(name):
            return ""
        with self._database.read() as session:
            account = session.scalar(_usable(name))
            return account.password if account is not None else ""

    async def _by_token(self, authorization: str) -> SignedIn:
        if authorization[: len(SCHEME)].lower() != SCHEME:
            raise UnauthenticatedError(
                "authorization must be `Bearer TOKEN`; it is of another scheme"
            )
        secret = authorization[len(SCHEME) :].strip()
        found = await self._look_up(tokens.find, secret)
        if found is None:
            raise UnauthenticatedError(
                "the bearer token is not one of this service's; it may have been revoked or have "
                "expired, or its account disabled"
            )
        if found.write_use:
            token_id = found.token_id
            self._later(token_id, lambda session: tokens.write_use(session, token_id, _now()))
        return SignedIn(_caller(found.account))

    async def _by_login(self, secret: str) -> SignedIn:
        found = await self._look_up(logins.find, secret)
        if found is None:
            raise UnauthenticatedError("the login has ended; sign in again at /login")
        if found.extend:
            self._later(secret, lambda session: logins.extend(session, secret, _now()))
        return SignedIn(_caller(found.account), secret)

    async def _look_up(
        self, find: Callable[[Session, str, datetime], _Result], secret: str
    ) -> _Result:
        def work() -> _Result:
            with self._database.read() as session:
                return find(session, secret, _now())

        return await asyncio.to_thread(work)

    def _later(self, what: object, write: Callable[[Session], None]) -> None:
        """Writes beside the request, once for all requests that come meanwhile."""

        def work() -> None:
            with self._database.write() as session:
                write(session)

        async def written() -> None:
            try:
                await asyncio.to_thread(work)
            except VisionloopError as error:
                _log.warning("the use of a login or token was not written down: %s", error)
            finally:
                del self._writes[what]

        if what not in self._writes:
            self._writes[what] = _task(written())


def _task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.create_task(work, name="write down the use of a login or token")


def _usable(name: str) -> Any:
    return select(Account).where(Account.name == name, Account.disabled.is_(False))


def _caller(account: Account) -> Caller:
    return Caller(account.name, Role(account.role), account.id)


def _now() -> datetime:
    return datetime.now(UTC)
