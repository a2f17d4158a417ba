"""Accounts: who there is and what they may. For administrators."""

from datetime import datetime
from typing import Annotated, Self

from fastapi import APIRouter
from pydantic import BaseModel, Field

from visionloop_labeling import accounts
from visionloop_labeling.accounts import Role
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.api.resources import RequestBody
from visionloop_labeling.auth import Gate
from visionloop_labeling.schema import Account
from visionloop_labeling.service import LabelingService

_Password = Annotated[str, Field(max_length=1000)]


class AccountOut(BaseModel):
    """An account; `password` tells whether it can sign in with one."""

    name: str
    role: Role
    disabled: bool
    password: bool
    created: datetime

    @classmethod
    def of(cls, account: Account) -> Self:
        """From its row."""
        return cls(
            name=account.name,
            role=Role(account.role),
            disabled=account.disabled,
            password=bool(account.password),
            created=account.created,
        )


class AccountIn(RequestBody):
    """An account to make; without a password it has API tokens only."""

    name: Annotated[str, Field(description="1 to 100 of a-z, 0-9 and . _ @ + -")]
    role: Role
    password: _Password = ""


class AccountChange(RequestBody):
    """What is to be another; what is left out stays."""

    role: Role | None = None
    disabled: bool | None = None
    password: _Password | None = None


def routes(service: LabelingService, gate: Gate) -> APIRouter:
    """Accounts."""
    api = APIRouter(tags=["accounts"], responses=ERRORS)

    @api.get("/v1/accounts")
    async def list_accounts() -> list[AccountOut]:
        """All accounts by name."""

        def work() -> list[AccountOut]:
            with service.database.read() as session:
                return [AccountOut.of(one) for one in accounts.listed(session)]

        return await service.run(work)

    @api.post("/v1/accounts", status_code=201)
    async def add_account(new: AccountIn) -> AccountOut:
        """Makes an account. Names are never used again."""
        stored = await gate.new_password(new.password, new.name) if new.password else ""

        def work() -> AccountOut:
            with service.database.write() as session:
                return AccountOut.of(accounts.add(session, new.name, new.role, stored))

        return await service.run(work)

    @api.patch("/v1/accounts/{name}")
    async def change_account(name: str, change: AccountChange) -> AccountOut:
        """Gives another role or password, disables or enables. Disabled is cut off at once."""
        stored = await gate.new_password(change.password, name) if change.password else ""

        def work() -> AccountOut:
            with service.database.write() as session:
                account = accounts.find(session, name, lock=True)
                accounts.change(session, account, role=change.role, disabled=change.disabled)
                if stored:
                    accounts.set_password(session, account, stored)
                session.flush()
                return AccountOut.of(account)

        return await service.run(work)

    @api.delete("/v1/accounts/{name}", status_code=204)
    async def end_account(name: str) -> None:
        """Ends an account for good: no password, logins or tokens. Its labels keep its name."""

        def work() -> None:
            with service.database.write() as session:
                accounts.end(session, accounts.find(session, name, lock=True))

        await service.run(work)

    return api
