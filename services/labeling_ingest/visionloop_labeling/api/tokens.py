"""API tokens: one's own, and for administrators everybody's."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, Field

from visionloop.errors import PermissionDeniedError
from visionloop_labeling import accounts, tokens
from visionloop_labeling.accounts import Caller, Role
from visionloop_labeling.api.callers import current
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.api.resources import RequestBody
from visionloop_labeling.api.sessions import need_accounts
from visionloop_labeling.schema import ApiToken
from visionloop_labeling.service import LabelingService

Who = Annotated[Caller, Depends(current)]


class TokenIn(RequestBody):
    """A token to make: for oneself, or by an administrator for any account."""

    name: Annotated[str, Field(min_length=1, max_length=100, description="What it is for.")]
    account: str | None = None
    days: Annotated[
        int | None,
        Field(ge=1, le=tokens.MOST_DAYS, description="How long it counts; none: until revoked"),
    ] = None


class TokenOut(BaseModel):
    """A token without its secret."""

    id: int
    name: str
    account: str
    created: datetime
    expires: datetime | None
    last_used: datetime | None


class NewTokenOut(TokenOut):
    """A new token with its secret, which nobody can show again."""

    token: str


def routes(service: LabelingService) -> APIRouter:
    """API tokens."""
    api = APIRouter(tags=["accounts"], responses=ERRORS)

    @api.get("/v1/tokens")
    async def list_tokens(
        caller: Who,
        account: Annotated[str | None, Query(description="Another's; for administrators.")] = None,
    ) -> list[TokenOut]:
        """One's own tokens; an administrator sees everybody's."""
        whose = _whose(caller, account)

        def work() -> list[TokenOut]:
            with service.database.read() as session:
                of = None if whose is None else accounts.find(session, whose)
                return [_token(token, name) for token, name in tokens.listed(session, of)]

        return await service.run(work)

    @api.post("/v1/tokens", status_code=201)
    async def make_token(new: TokenIn, caller: Who) -> NewTokenOut:
        """Makes a token. Its secret is in this answer and never again."""
        whose = _whose(caller, new.account or caller.name) or caller.name
        need_accounts(caller)
        lifetime = None if new.days is None else timedelta(days=new.days)

        def work() -> NewTokenOut:
            with service.database.write() as session:
                account = accounts.find(session, whose, lock=True)
                token, secret = tokens.make(session, account, new.name, datetime.now(UTC), lifetime)
                return NewTokenOut(**_token(token, whose).model_dump(), token=secret)

        return await service.run(work)

    @api.delete("/v1/tokens/{token_id}", status_code=204)
    async def revoke_token(token_id: Annotated[int, Path(ge=1, lt=2**63)], caller: Who) -> None:
        """Ends a token at once."""
        owner = None if caller.may(Role.ADMIN) else caller.account

        def work() -> None:
            with service.database.write() as session:
                tokens.revoke(session, token_id, owner)

        await service.run(work)

    return api


def _whose(caller: Caller, account: str | None) -> str | None:
    """Whose tokens are meant; None: everybody's."""
    if caller.may(Role.ADMIN) or account == caller.name:
        return account
    if account is not None:
        raise PermissionDeniedError(f"{caller.name} may see and make only tokens of its own")
    return caller.name


def _token(token: ApiToken, account: str) -> TokenOut:
    return TokenOut(
        id=token.id,
        name=token.name,
        account=account,
        created=token.created,
        expires=token.expires,
        last_used=token.last_used,
    )
