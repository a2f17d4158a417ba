"""Limits: sizes and speeds of requests, rates, quotas, and the headers that bound browsers."""

import asyncio
import json
import logging
import socket
import time

import grpc
import httpx
import pytest
from support.labeling_site import LIMIT, Site, open_site, served_site
from support.pictures import noise

from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop.telemetry.request_lines import FAILURES_AT_ONCE, RequestLines
from visionloop_labeling import http_server, quotas
from visionloop_labeling.accounts import Role, find
from visionloop_labeling.api import guards, make_api
from visionloop_labeling.permissions import Body
from visionloop_labeling.readiness import Readiness
from visionloop_labeling.schema import Usage
from visionloop_labeling.throttle import REMEMBERED, Buckets

pytestmark = pytest.mark.anyio


async def endless(sent: list[int]):
    yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    while sum(sent) < 2**30:
        sent.append(2**16)
        yield bytes(2**16)


@pytest.mark.parametrize(
    ("method", "path", "limit"),
    [
        ("POST", "/v1/datasets/d/images", LIMIT + 2**18),
        ("POST", "/v1/datasets/d/events", 8 * 2**20),
        ("POST", "/nothing", 8 * 2**20),
    ],
)
async def test_each_route_has_its_size(site: Site, method: str, path: str, limit: int) -> None:
    sent: list[int] = []
    kind = {}
    if path.endswith("images"):
        kind["Content-Type"] = "multipart/form-data; boundary=x"
    async with site.client(site.token("root"), **kind) as client:
        answer = await client.request(method, path, content=endless(sent))
    if path == "/nothing":  # nobody reads it
        assert (answer.status_code, sum(sent)) == (404, 0)
        return
    assert (answer.status_code, answer.json()["reason"]) == (413, "too_many_bytes")
    assert str(limit) in answer.json()["message"]
    assert limit <= sum(sent) <= limit + 2**17


def test_imports_may_be_larger_than_all_else(site: Site) -> None:
    made = [one for one in site.api.user_middleware if one.cls is guards.BodyLimit]
    sizes = made[0].kwargs["sizes"]
    assert sizes[Body.IMPORT] > 20 * 2**30 > sizes[Body.JSON] > sizes[Body.IMAGE]


async def test_who_may_not_is_refused_before_the_body_is_read(site: Site) -> None:
    sent: list[int] = []
    async with site.client() as client:
        answer = await client.post("/v1/datasets/d/images", content=endless(sent))
        assert (answer.status_code, sum(sent)) == (401, 0)
    async with site.client(site.token("line-3")) as client:
        answer = await client.post("/v1/datasets/d/imports", content=endless(sent))
        assert (answer.status_code, sum(sent)) == (403, 0)


@pytest.mark.parametrize("dripping", [False, True])
async def test_a_body_that_does_not_come_is_given_up(
    site: Site, monkeypatch, dripping: bool
) -> None:
    monkeypatch.setattr(guards, "WAIT_SECONDS", 0.1)

    async def slow():
        yield b'{"name": '
        while True:
            await asyncio.sleep(0.02 if dripping else 3600)
            yield b" "

    async with site.client(site.token("root")) as client:
        answer = await client.post("/v1/datasets", content=slow())
    assert (answer.status_code, answer.json()["reason"]) == (408, "too_slow")


async def test_a_form_that_does_not_come_is_given_up(site: Site, monkeypatch) -> None:
    monkeypatch.setattr(guards, "WAIT_SECONDS", 0.1)

    async def slow():
        yield b"csrf="
        await asyncio.sleep(3600)

    browser = await site.browser("lars")
    del browser.headers["X-CSRF-Token"]
    kind = {"Content-Type": guards.FORM}
    answer = await browser.post("/logout", content=slow(), headers=kind)
    assert (answer.status_code, "too slowly" in answer.text) == (403, True)
    large = await browser.post("/logout", data={"csrf": "x" * 2**17})
    assert (large.status_code, "at most" in large.text) == (403, True)


async def test_every_answer_has_the_safety_headers(site: Site, monkeypatch) -> None:
    async def broken() -> None:
        raise RuntimeError("secret of ours")

    async with site.client(site.token("root")) as client:
        seen = [
            await client.get("/healthz"),
            await client.get("/nothing"),
            await client.get("/v1/datasets"),
            await client.post("/v1/datasets", content=b"{"),
            await client.get("/login"),
            await client.get("/", headers={"accept": "text/html"}),
        ]
        monkeypatch.setattr(site.service, "list_datasets", broken)
        seen.append(await client.get("/v1/datasets"))
        assert seen[-1].status_code == 500
        assert "secret" not in seen[-1].text
    async with site.client() as client:
        seen.append(await client.get("/v1/datasets"))
        seen.append(await client.post("/v1/datasets", headers={"Origin": "https://evil.example"}))
    assert {answer.status_code for answer in seen} == {200, 404, 422, 500, 401, 403}
    for answer in seen:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy or "default-src 'self'" in policy, answer.url
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "server" not in answer.headers
        assert "strict-transport-security" not in answer.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8080", 200), ("127.0.0.1:8080", 200), ("[::1]:8080", 200),
        ("evil.example:8080", 403), ("localhost.evil.example", 403), ("10.0.0.1", 403), ("", 403),
    ],
)  # fmt: skip
async def test_a_name_that_is_not_this_machines_is_refused(
    rebinding: Site, host: str, status: int
) -> None:
    async with rebinding.client() as client:
        answer = await client.get("/healthz", headers={"Host": host})
    assert answer.status_code == status


@pytest.fixture(scope="module")
async def rebinding(tmp_path_factory, anyio_backend):
    folder = tmp_path_factory.mktemp("rebinding")
    async with open_site(folder, with_accounts=False, own_host_only=True) as made:
        yield made


def test_buckets_refill_and_forget_the_longest_unseen() -> None:
    now = 0.0
    buckets = Buckets(2.0, 4.0, lambda: now)
    assert [buckets.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    now = 0.5
    assert (buckets.take("a"), buckets.take("a")) == (0, 0.5)
    for number in range(REMEMBERED):
        buckets.take(number)
    assert buckets.take("a") == 0
    assert not any(Buckets(0.0, 0.0).take("a") for _ in range(99))


async def test_one_account_may_not_ask_too_often(tmp_path, anyio_backend) -> None:
    async with open_site(tmp_path, requests_per_second=0.2) as site:
        async with site.client(site.token("lars")) as client:
            statuses = [(await client.get("/v1/session")).status_code for _ in range(3)]
            assert statuses == [200, 200, 429]
            answer = await client.get("/v1/session")
            assert answer.json()["reason"] == "overloaded"
            assert 1 <= int(answer.headers["retry-after"]) <= 5
            assert (await client.get("/healthz")).status_code == 200
        async with site.client(site.token("rita")) as client:
            assert (await client.get("/v1/session")).status_code == 200
        async with site.grpc() as stub:
            bearer = (("authorization", f"Bearer {site.token('lars')}"),)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListDatasets(pb.ListDatasetsRequest(), metadata=bearer)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        pushback = dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]
        assert 1 <= int(pushback) <= 5000


async def test_quotas_end_a_day_and_hold_for_both_faces(tmp_path, anyio_backend) -> None:
    async with open_site(tmp_path, daily_images=3) as site:
        async with site.client(site.token("line-3")) as client:
            answer = await client.post("/v1/datasets/d/images", files={"file": noise(0)})
            assert answer.status_code == 201
        bearer = (("authorization", f"Bearer {site.token('line-3')}"),)
        rows = [
            pb.SubmitImageRequest(dataset="d", batch="q", ordinal=n, image=noise(n))
            for n in range(1, 6)
        ]
        async with site.grpc() as stub:
            call = stub.SubmitImages(iter(rows), metadata=bearer)
            receipts = [(await call.read()).ordinal for _ in range(2)]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
        assert receipts == [1, 2]  # what was within the quota is kept and answered
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "--daily-images" in caught.value.details()
        async with site.client(site.token("line-3")) as client:
            answer = await client.post("/v1/datasets/d/images", files={"file": noise(9)})
            assert answer.status_code == 429
            assert 1 <= int(answer.headers["retry-after"]) <= 86_400
        async with site.client(site.token("lars")) as client:
            answer = await client.post("/v1/datasets/d/images", files={"file": noise(9)})
            assert answer.status_code == 201
        await site.gate.quotas.close()
        with site.service.database.read() as session:
            used = {one.account_id: (one.images, one.bytes) for one in session.query(Usage).all()}
            line, lars = find(session, "line-3").id, find(session, "lars").id
        assert used == {
            line: (3, sum(len(noise(n)) for n in range(3))), lars: (1, len(noise(9))),
        }  # fmt: skip


async def test_quotas_of_bytes_count_what_other_replicas_wrote(site: Site) -> None:
    site.add("heavy", Role.SERVICE, password=False)
    known = await site.gate.known(f"Bearer {site.token('heavy')}", "")
    here = quotas.Quotas(site.service.database, size=1000)
    there = quotas.Quotas(site.service.database, size=1000)
    await here.take(known.caller, 400)
    await there.take(known.caller, 500)
    await there.close()
    await here.close()  # writes 400, reads 900
    with pytest.raises(Exception, match="1000 bytes"):
        await here.take(known.caller, 101)
    await here.take(known.caller, 100)
    await here.close()
    again = quotas.Quotas(site.service.database, size=1000)
    with pytest.raises(Exception, match="1000 bytes"):
        await again.take(known.caller, 1)


def test_requests_that_dawdle_are_cut_off(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(http_server, "ANSWER_SECONDS", 0.2)
    with served_site(tmp_path, with_accounts=False) as (_, address):
        host, _, port = address.rpartition(":")

        def connected() -> socket.socket:
            made = socket.socket()
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            made.settimeout(30)
            made.connect((host, int(port)))
            return made

        with connected() as silent, connected() as dripping, connected() as second:
            dripping.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ")
            whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
            for _ in range(2):
                second.sendall(whole)
                received = b""
                while b"alive" not in received:
                    received += second.recv(4096)
                time.sleep(0.3)  # idle between requests: that is what keep-alive is for
            second.sendall(b"GET /healthz")  # and now half of one
            for one in (silent, dripping, second):
                assert ended(one)
        with connected() as deaf:
            # Answers that nobody reads fill the buffers between us until writing stops.
            ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
            assert cut_off_while_sending(deaf, ask)
        assert httpx.get(f"http://{address}/healthz").status_code == 200


def ended(connection: socket.socket) -> bool:
    """Waits for the other side's end of the connection."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


def cut_off_while_sending(connection: socket.socket, request: bytes) -> bool:
    try:
        while True:
            connection.sendall(request)
    except (ConnectionResetError, BrokenPipeError):
        return True
    except TimeoutError:
        return False


async def test_the_access_log_says_who_and_how_and_no_secret(tmp_path, anyio_backend, caplog):
    caplog.set_level(logging.INFO, "visionloop_labeling.access_log")
    async with open_site(tmp_path) as site:
        site.api = make_api(site.service, site.gate, lines=RequestLines(1.0))
        token = site.token("lars")
        async with site.client(token) as client:
            await client.get("/v1/datasets?token=hush")
            await client.get("/healthz")
            await client.get("/v1/accounts")
            await client.get("/v1/datasets/%1b%5b31m/labels.csv")
        body = {"name": "lars", "password": "very much hush"}
        async with site.client() as client:
            await client.post("/v1/session", json=body)
        async with site.grpc(lines=RequestLines(1.0)) as stub:
            bearer = (("authorization", f"Bearer {token}"),)
            await stub.ListDatasets(pb.ListDatasetsRequest(), metadata=bearer)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.CreateDataset(pb.CreateDatasetRequest(name="x"), metadata=bearer)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ListDatasets(pb.ListDatasetsRequest())
    lines = [one for one in caplog.records if one.name == "visionloop_labeling.access_log"]
    http = [
        (one.path, one.status, getattr(one, "caller", "")) for one in lines if hasattr(one, "path")
    ]
    assert http == [
        ("/v1/datasets", 200, "lars"),
        ("/v1/accounts", 403, "lars"),
        ("'/v1/datasets/\\x1b[31m/labels.csv'", 400, "lars"),
        ("/v1/session", 401, ""),
    ]
    rpcs = [
        (one.method, one.code, getattr(one, "caller", "")) for one in lines if hasattr(one, "code")
    ]
    service = "visionloop.v1.LabelingIngest/"
    assert rpcs == [
        (f"{service}ListDatasets", "OK", "lars"),
        (f"{service}CreateDataset", "PERMISSION_DENIED", ""),
        (f"{service}ListDatasets", "UNAUTHENTICATED", ""),
    ]
    # httpx, the caller here, may log, too.
    ours = [one for one in caplog.records if one.name.startswith("visionloop")]
    written = json.dumps([vars(one) for one in ours], default=str)
    assert "hush" not in written
    assert token not in written


def test_failures_are_logged_up_to_a_rate() -> None:
    lines = RequestLines(0.0)
    kept = [lines.wants(failed=True) for _ in range(100)]
    assert int(FAILURES_AT_ONCE) <= sum(kept) < 50
    assert lines.left_out() == {"failures_left_out": kept.count(False)}
    assert lines.left_out() == {}
    assert not any(lines.wants(failed=False) for _ in range(100))


async def test_a_drain_says_so_first_and_ends_when_it_is_quiet(site: Site) -> None:
    readiness = Readiness()
    async with asyncio.timeout(30):
        await readiness.quiet(0.0, 10.0)
        waiting = asyncio.create_task(readiness.quiet(3600.0, 7200.0))
        await asyncio.sleep(0)
        readiness.stop()
        assert readiness.reason() == "draining"
        await asyncio.sleep(0)
        assert not waiting.done()
        readiness.stop()  # the second signal
        await waiting
        await Readiness().quiet(3600.0, 0.05)
    async with site.client() as client:
        assert (await client.get("/readyz")).status_code == 200
        site.gate.readiness.stop()
        answer = await client.get("/readyz")
        assert (answer.status_code, "draining" in answer.json()["message"]) == (503, True)
        assert (await client.get("/healthz")).status_code == 200
        async with site.client(site.token("root")) as known:
            assert (await known.get("/v1/datasets")).status_code == 200
