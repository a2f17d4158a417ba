"""One's own account with its tokens, and for administrators everybody's account."""

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from visionloop_labeling import accounts, tokens
from visionloop_labeling.accounts import Role
from visionloop_labeling.api.accounts import AccountOut
from visionloop_labeling.api.callers import current
from visionloop_labeling.api.sessions import need_accounts
from visionloop_labeling.pages.errors import PageRoute
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.schema import ApiToken
from visionloop_labeling.service import LabelingService

ROLES = (
    (Role.LABELLER, "Labeller", "labels, skips, flags"),
    (Role.REVIEWER, "Reviewer", "also decides disputes, takes labels back, changes classes"),
    (Role.ADMIN, "Administrator", "also datasets, imports, quarantine, accounts"),
    (Role.SERVICE, "Program", "sends images and labels, reads exports and snapshots"),
)


@dataclass(frozen=True, slots=True)
class _Token:
    token: ApiToken
    account: str


def routes(service: LabelingService) -> APIRouter:
    """The pages."""
    api = APIRouter(include_in_schema=False, route_class=PageRoute)

    @api.get("/account")
    async def own(request: Request) -> Response:
        caller = current(request)
        need_accounts(caller)

        def work() -> list[_Token]:
            with service.database.read() as session:
                mine = accounts.find(session, caller.name)
                return [_Token(*one) for one in tokens.listed(session, mine)]

        return render(request, "account.html", tokens=await service.run(work))

    @api.get("/accounts")
    async def everybody(request: Request) -> Response:
        need_accounts(current(request))

        def work() -> tuple[list[AccountOut], list[_Token]]:
            with service.database.read() as session:
                found = [AccountOut.of(one) for one in accounts.listed(session)]
                return found, [_Token(*one) for one in tokens.listed(session, None)]

        found, all_tokens = await service.run(work)
        return render(request, "accounts.html", accounts=found, tokens=all_tokens, roles=ROLES)

    return api
