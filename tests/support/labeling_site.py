"""labeling-ingest with accounts, in process: callers of every role over HTTP and gRPC."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
from fastapi import FastAPI
from support.fresh_database import fresh_sqlite

from visionloop.images import Limits
from visionloop.objectstore import open_store
from visionloop.proto.v1 import labeling_pb2_grpc
from visionloop.telemetry.request_lines import RequestLines
from visionloop_labeling import accounts, passwords, tokens
from visionloop_labeling.accounts import Role
from visionloop_labeling.api import make_api
from visionloop_labeling.auth import Gate
from visionloop_labeling.database import open_database
from visionloop_labeling.grpc_api import GrpcServer
from visionloop_labeling.http_server import HttpServer
from visionloop_labeling.quotas import Quotas
from visionloop_labeling.service import LabelingService

CHEAP = passwords.Cost(n=2**4, r=8, p=1)  # a test signs in often
BASE = "http://labeling"
LIMIT = 40_000  # bytes of an image


def password_of(name: str) -> str:
    return f"long enough for {name}"


@dataclass
class Site:
    """The service behind its gate. Every account's password is `password_of` its name."""

    service: LabelingService
    gate: Gate
    api: FastAPI
    _tokens: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, role: Role, *, password: bool = True) -> None:
        stored = passwords.new(password_of(name), name=name) if password else ""
        with self.service.database.write() as session:
            accounts.add(session, name, role, stored)

    def disable(self, name: str) -> None:
        with self.service.database.write() as session:
            accounts.change(session, accounts.find(session, name), disabled=True)

    def token(self, name: str, *, anew: bool = False) -> str:
        """An API token of the account, one per test site, unless another is asked for."""
        if anew or name not in self._tokens:
            with self.service.database.write() as session:
                account = accounts.find(session, name)
                _, secret = tokens.make(session, account, "test", datetime.now(UTC), None)
            self._tokens[name] = secret
        return self._tokens[name]

    def client(
        self, token: str = "", *, base: str = BASE, address: str = "10.0.0.1", **headers: str
    ) -> httpx.AsyncClient:
        """A program with a token, or somebody unknown."""
        if token:
            headers["Authorization"] = f"Bearer {token}"
        transport = httpx.ASGITransport(
            self.api, raise_app_exceptions=False, client=(address, 4711)
        )
        return httpx.AsyncClient(transport=transport, base_url=base, headers=headers)

    async def browser(self, name: str, **options: str) -> httpx.AsyncClient:
        """Somebody who has signed in, on a page of ours."""
        client = self.client(**options)
        body = {"name": name, "password": password_of(name)}
        answer = await client.post("/v1/session", json=body)
        assert answer.status_code == 200, answer.text
        client.headers["X-CSRF-Token"] = answer.json()["csrf"]
        return client

    @contextlib.asynccontextmanager
    async def grpc(
        self, lines: RequestLines | None = None
    ) -> AsyncIterator[labeling_pb2_grpc.LabelingIngestStub]:
        """The gRPC face on a free port."""
        server = GrpcServer(self.service, "127.0.0.1", 0, gate=self.gate, lines=lines)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                yield labeling_pb2_grpc.LabelingIngestStub(channel)
        finally:
            await server.stop(0)


@contextlib.asynccontextmanager
async def open_site(
    folder: Path,
    *,
    database_url: str = "",
    with_accounts: bool = True,
    own_host_only: bool = False,
    requests_per_second: float = 0.0,
    daily_images: int = 0,
    daily_bytes: int = 0,
) -> AsyncIterator[Site]:
    """A site on a fresh database with the accounts root (admin), rita, lars and line-3."""
    database = open_database(database_url or fresh_sqlite(folder / "l.db"))
    store = open_store(f"file://{folder / 's'}")
    service = LabelingService(database, store, Limits(max_bytes=LIMIT))
    gate = Gate(
        database,
        accounts=with_accounts,
        requests_per_second=requests_per_second,
        quotas=Quotas(database, images=daily_images, size=daily_bytes),
    )
    site = Site(service, gate, make_api(service, gate, own_host_only=own_host_only))
    before, passwords.COST = passwords.COST, CHEAP
    try:
        for name, role in (
            ("root", Role.ADMIN), ("rita", Role.REVIEWER), ("lars", Role.LABELLER),
            ("line-3", Role.SERVICE),
        ):  # fmt: skip
            site.add(name, role, password=role is not Role.SERVICE)
        await service.create_dataset("d")
        yield site
    finally:
        passwords.COST = before
        await gate.close()
        service.close()


@contextlib.contextmanager
def served_site(folder: Path, **options: Any) -> Iterator[tuple[Site, str]]:
    """The same behind the real HTTP server, in a thread with a loop of its own: (site, address)."""
    ready: Future[tuple[Site, str]] = Future()
    stopping = threading.Event()

    async def serve() -> None:
        async with open_site(folder, **options) as site:
            with socket.socket() as bound:
                bound.bind(("127.0.0.1", 0))
                server = HttpServer(site.api, bound, drain_seconds=1.0)
                await server.start()
                ready.set_result((site, f"127.0.0.1:{bound.getsockname()[1]}"))
                await asyncio.to_thread(stopping.wait)
                await server.stop()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ready.result(60)
    finally:
        stopping.set()
        thread.join()
