"""Roles: every route and RPC stands in the table, and the table is what callers meet."""

import re
from collections.abc import Iterator

import grpc
import pytest
from fastapi.routing import iter_route_contexts
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.labeling_site import Site, open_site
from support.pictures import noise

from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop_labeling import grpc_callers, permissions
from visionloop_labeling.accounts import LOCAL, Caller, Role
from visionloop_labeling.grpc_api import SERVICE, GrpcServer
from visionloop_labeling.permissions import ADMIN, METHODS, ROUTES

pytestmark = pytest.mark.anyio
CALLERS = {
    Role.SERVICE: "line-3", Role.LABELLER: "lars", Role.REVIEWER: "rita", Role.ADMIN: "root",
}  # fmt: skip


def served(site: Site) -> Iterator[tuple[str, str]]:
    for route in iter_route_contexts(site.api.routes):
        yield from ((method, route.path) for method in route.methods - {"HEAD"})


def filled(template: str) -> str:
    return re.sub(r"\{[^}]+\}", "1", template)


def test_each_role_may_do_what_those_before_it_may() -> None:
    order = list(Role)
    for place, role in enumerate(order):
        assert [Caller("x", role).may(other) for other in order] == [
            number <= place for number in range(len(order))
        ]


async def test_every_route_stands_in_the_table_and_no_other(site: Site) -> None:
    routes = set(served(site))
    assert routes - ROUTES.keys() == set(), "add it to permissions.ROUTES"
    assert ROUTES.keys() - routes == set(), "permissions.ROUTES speaks of what is not served"


def test_every_rpc_stands_in_the_table_and_no_other() -> None:
    methods = pb.DESCRIPTOR.services_by_name["LabelingIngest"].methods
    served = {f"/{SERVICE}/{method.name}" for method in methods}
    ours = {name for name in METHODS if name.startswith(f"/{SERVICE}/")}
    assert ours == served
    assert permissions.of_method(f"/{SERVICE}/Later") == ADMIN


def test_where_two_templates_fit_the_higher_role_counts(monkeypatch) -> None:
    low, high = permissions.LABELLER, permissions.ADMIN
    for order in ([("/x/{a}", low), ("/x/y", high)], [("/x/y", high), ("/x/{a}", low)]):
        patterns = [("GET", path, permissions._pattern(path), rule) for path, rule in order]
        monkeypatch.setattr(permissions, "_PATTERNS", patterns)
        assert permissions.of_route("GET", "/x/y") == ("/x/y", high)
        assert permissions.of_route("HEAD", "/x/z") == ("/x/{a}", low)
        assert permissions.of_route("GET", "/x/y/z") is None
        assert permissions.of_route("POST", "/x/y") is None


async def test_who_is_unknown_gets_nothing_but_what_is_open(site: Site) -> None:
    async with site.client() as client:
        for (method, template), rule in ROUTES.items():
            answer = await client.request(method, filled(template))
            if rule.role is not None:
                assert answer.status_code == 401, (method, template)
                assert answer.json()["reason"] == "unauthenticated"
    # What is open, in full: nobody adds to it without being seen here.
    assert {key for key, rule in ROUTES.items() if rule.role is None} == {
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/login"),
        ("POST", "/login"),
        ("POST", "/v1/session"),
        ("GET", "/static/{version}/{name:path}"),
    }


async def test_who_lacks_a_role_is_refused_with_its_name(site: Site) -> None:
    for (method, template), rule in ROUTES.items():
        if rule.role in (None, Role.SERVICE):
            continue
        below = list(Role)[list(Role).index(rule.role) - 1]
        async with site.client(site.token(CALLERS[below])) as client:
            answer = await client.request(method, filled(template))
        assert answer.status_code == 403, (method, template)
        assert f"needs the role {rule.role}" in answer.json()["message"]


async def test_roles_let_in(site: Site) -> None:
    for role, path in (
        (Role.SERVICE, "/v1/datasets"),
        (Role.LABELLER, "/v1/tokens"),
        (Role.REVIEWER, "/v1/datasets/d/classes"),
        (Role.ADMIN, "/v1/accounts"),
    ):
        async with site.client(site.token(CALLERS[role])) as client:
            answer = await client.get(path)
            assert answer.status_code == 200, answer.text


async def test_what_is_no_route_is_not_there_for_those_who_are_known(site: Site) -> None:
    async with site.client(site.token("line-3")) as client:
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.request("PATCH", "/v1/datasets")).status_code in (403, 405)
    async with site.client() as client:
        assert (await client.get("/nothing")).status_code == 401
    async with site.client(site.token("lars"), accept="text/html") as reader:
        for path, status, words in (
            ("/nothing", 404, "there is no page"),
            ("/accounts", 403, "needs the role admin"),
        ):
            answer = await reader.get(path)
            assert (answer.status_code, words in answer.text) == (status, True)
            assert answer.headers["content-type"].startswith("text/html")


async def test_a_route_that_was_forgotten_is_for_administrators(site: Site, monkeypatch) -> None:
    kept = [one for one in permissions._PATTERNS if one[1] != "/v1/datasets"]
    monkeypatch.setattr(permissions, "_PATTERNS", kept)
    for name, expected in (("line-3", 403), ("rita", 403), ("root", 200)):
        async with site.client(site.token(name)) as client:
            assert (await client.get("/v1/datasets")).status_code == expected


async def test_without_accounts_everybody_is_the_administrator(tmp_path, anyio_backend) -> None:
    async with open_site(tmp_path, with_accounts=False) as site, site.client() as client:
        said = (await client.get("/v1/session")).json()
        assert said == {"name": LOCAL.name, "role": "admin", "csrf": ""}
        assert (await client.post("/v1/datasets", json={"name": "x"})).status_code == 200
        sign_in = await client.post("/v1/session", json={"name": "root", "password": "x"})
        assert (sign_in.status_code, sign_in.json()["reason"]) == (412, "refused")
        assert (await client.get("/login")).headers["location"] == "/"
        assert (await client.post("/v1/tokens", json={"name": "x"})).status_code == 412
        async with site.grpc() as stub:
            assert (await stub.CreateDataset(pb.CreateDatasetRequest(name="y"))).name == "y"


async def code_of(call) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def test_rpcs_ask_for_roles(site: Site) -> None:
    create, listing = pb.CreateDatasetRequest(name="d"), pb.ListDatasetsRequest()
    async with site.grpc() as stub:
        assert await code_of(stub.ListDatasets(listing)) is grpc.StatusCode.UNAUTHENTICATED
        wrong = bearer("vl_wrong")
        assert (
            await code_of(stub.ListDatasets(listing, metadata=wrong))
            is grpc.StatusCode.UNAUTHENTICATED
        )
        service, admin = bearer(site.token("line-3")), bearer(site.token("root"))
        assert await code_of(stub.ListDatasets(listing, metadata=service)) is grpc.StatusCode.OK
        assert (
            await code_of(stub.CreateDataset(create, metadata=service))
            is grpc.StatusCode.PERMISSION_DENIED
        )
        assert await code_of(stub.CreateDataset(create, metadata=admin)) is grpc.StatusCode.OK


async def test_health_and_reflection_ask_for_nobody(site: Site) -> None:
    server = GrpcServer(site.service, "127.0.0.1", 0, gate=site.gate)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    await server.stop(0)


async def test_a_stream_ends_when_its_caller_is_disabled(site: Site, monkeypatch) -> None:
    monkeypatch.setattr(grpc_callers, "LOOK_AGAIN_SECONDS", -1.0)
    site.add("brief", Role.SERVICE, password=False)

    def row(number: int) -> pb.SubmitImageRequest:
        return pb.SubmitImageRequest(dataset="d", batch="s", ordinal=number, image=noise(number))

    async with site.grpc() as stub:
        call = stub.SubmitImages(metadata=bearer(site.token("brief")))
        await call.write(row(1))
        assert (await call.read()).sha256
        site.disable("brief")
        await call.write(row(2))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
