"""Accounts: signing in and out, tokens, what a browser must prove, who speaks as whom."""

import hashlib
import io
import json
import threading
import uuid
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from sqlalchemy import select, text
from support.labeling_site import CHEAP, Site, password_of
from support.pictures import noise

from visionloop.errors import (
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    OverloadedError,
    RefusedError,
    VisionloopError,
)
from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop_labeling import account_commands, accounts, logins, passwords, quotas, tokens
from visionloop_labeling.accounts import Role
from visionloop_labeling.database import open_database
from visionloop_labeling.schema import ApiToken, Login, Usage
from visionloop_labeling.throttle import (
    ADDRESS_TRIES,
    FORGOTTEN_AFTER,
    FREE_TRIES,
    LONGEST_WAIT,
    SignInThrottle,
)

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


async def status(client, path: str = "/v1/session") -> int:
    return (await client.get(path)).status_code


async def test_signing_in_gives_a_cookie_that_only_the_server_reads(site: Site) -> None:
    async with site.client() as client:
        body = {"name": "lars", "password": password_of("lars")}
        answer = await client.post("/v1/session", json=body)
        said = answer.json()
        assert (said["name"], said["role"]) == ("lars", "labeller")
        cookie = answer.headers["set-cookie"]
        assert all(word in cookie for word in ("HttpOnly", "SameSite=lax", "Path=/"))
        assert "Secure" not in cookie  # a browser would not send it back without TLS
        secret = cookie.partition("=")[2].partition(";")[0]
        with site.service.database.read() as session:
            stored = session.scalars(select(Login.secret_sha256)).all()
        assert hashlib.sha256(secret.encode()).hexdigest() in stored
        assert secret not in stored
        assert (await client.get("/v1/session")).json() == said


async def test_over_tls_the_cookie_is_for_this_host_over_tls_alone(site: Site) -> None:
    async with site.client(base="https://labeling") as client:
        body = {"name": "lars", "password": password_of("lars")}
        answer = await client.post("/v1/session", json=body)
        assert answer.headers["set-cookie"].startswith("__Host-")
        assert "Secure" in answer.headers["set-cookie"]
        assert "strict-transport-security" in answer.headers
        assert await status(client) == 200
        secret = client.cookies["__Host-visionloop-login"]
    async with site.client(base="https://labeling") as client:
        # Another host of the domain, or a plain connection, could have set this one.
        client.cookies.set("visionloop-login", secret)
        assert await status(client) == 401


async def test_a_wrong_name_and_a_wrong_password_sound_the_same(site: Site) -> None:
    said = set()
    for name, password in (("lars", "x" * 20), ("nobody", "x" * 20), ("line-3", ""), ("", "")):
        async with site.client(address="10.1.0.1") as client:
            answer = await client.post("/v1/session", json={"name": name, "password": password})
            said.add((answer.status_code, answer.json()["message"], "set-cookie" in answer.headers))
    assert said == {(401, "the name or the password is wrong", False)}


async def test_guessing_is_slowed_for_one_address_and_not_for_others(site: Site) -> None:
    site.add("slow", Role.LABELLER)
    wrong = {"name": "slow", "password": "not this one at all"}
    async with site.client(address="10.2.0.1") as client:
        statuses = [
            (await client.post("/v1/session", json=wrong)).status_code
            for _ in range(FREE_TRIES + 1)
        ]
        assert statuses == [401] * FREE_TRIES + [429]
        right = {"name": "slow", "password": password_of("slow")}
        refused = await client.post("/v1/session", json=right)
        assert refused.status_code == 429  # the right one must wait as well
        assert int(refused.headers["retry-after"]) >= 1
    assert await status(await site.browser("slow", address="10.2.0.2")) == 200


def test_waits_double_end_with_success_and_are_forgotten() -> None:
    now = 0.0
    throttle = SignInThrottle(lambda: now)

    def tries_after(seconds: float) -> bool:
        nonlocal now
        now += seconds
        try:
            throttle.begin("a", "2001:db8::1")
        except VisionloopError:
            return False
        return True

    assert all(tries_after(0) for _ in range(FREE_TRIES))
    assert not tries_after(1.9)
    assert tries_after(0.2)
    assert not tries_after(3.9)
    assert tries_after(0.2)
    throttle.begin("b", "2001:db8::1")  # another account is not held up
    with pytest.raises(VisionloopError):
        throttle.begin("a", "2001:db8::ffff")  # but the same network is
    throttle.succeeded("a", "2001:db8::2")
    assert all(tries_after(0) for _ in range(FREE_TRIES))
    for _ in range(12):
        tries_after(LONGEST_WAIT)
    assert not tries_after(LONGEST_WAIT - 1)
    assert tries_after(FORGOTTEN_AFTER + LONGEST_WAIT)
    assert tries_after(0)


def test_one_address_may_not_try_every_account() -> None:
    throttle = SignInThrottle(lambda: 0.0)
    for number in range(int(ADDRESS_TRIES)):
        throttle.begin(f"a{number}", "10.0.0.9")
    with pytest.raises(VisionloopError, match="try again in"):
        throttle.begin("another", "10.0.0.9")


async def test_a_browser_must_send_the_pages_token(site: Site) -> None:
    client, other = await site.browser("root"), await site.browser("root")
    new = {"name": "c"}
    token = client.headers.pop("X-CSRF-Token")
    for wrong in ({}, {"X-CSRF-Token": b"\xe9"}, {"X-CSRF-Token": other.headers["X-CSRF-Token"]}):
        answer = await client.post("/v1/datasets", json=new, headers=wrong)
        assert answer.status_code == 403
        assert "X-CSRF-Token" in answer.json()["message"]
    assert (await client.post("/logout")).status_code == 403
    assert await status(client) == 200
    headers = {"X-CSRF-Token": token}
    assert (await client.post("/v1/datasets", json=new, headers=headers)).status_code == 200
    assert (await client.post("/logout", data={"csrf": token})).status_code == 303
    assert await status(client) == 401
    async with site.client(site.token("root")) as program:
        assert (await program.post("/v1/datasets", json=new)).status_code == 200


async def test_signing_out_here_and_everywhere(site: Site) -> None:
    here, there = await site.browser("rita"), await site.browser("rita")
    assert (await here.delete("/v1/session")).status_code == 204
    assert (await status(here), await status(there)) == (401, 200)
    again = await site.browser("rita")
    answer = await again.delete("/v1/session", params={"everywhere": True})
    assert answer.status_code == 204
    assert (await status(again), await status(there)) == (401, 401)


async def test_a_disabled_account_is_cut_off_at_once(site: Site) -> None:
    site.add("gone", Role.REVIEWER)
    browser, root = await site.browser("gone"), await site.browser("root")
    async with site.client(site.token("gone")) as program:
        assert (await status(browser), await status(program)) == (200, 200)
        answer = await root.patch("/v1/accounts/gone", json={"disabled": True})
        assert answer.json()["disabled"]
        assert (await status(browser), await status(program)) == (401, 401)
        body = {"name": "gone", "password": password_of("gone")}
        assert (await browser.post("/v1/session", json=body)).status_code == 401
        await root.patch("/v1/accounts/gone", json={"disabled": False})
        assert (await status(browser), await status(program)) == (401, 200)


async def test_an_ended_account_keeps_its_name_and_nothing_else(site: Site) -> None:
    site.add("left", Role.LABELLER)
    root = await site.browser("root")
    token = site.token("left")
    assert (await root.delete("/v1/accounts/left")).status_code == 204
    await root.patch("/v1/accounts/left", json={"disabled": False})
    async with site.client(token) as program:
        assert await status(program) == 401
    found = {one["name"]: one for one in (await root.get("/v1/accounts")).json()}
    assert found["left"]["password"] is False
    answer = await root.post("/v1/accounts", json={"name": "left", "role": "labeller"})
    assert answer.status_code == 409


async def test_the_last_administrator_stays(site: Site) -> None:
    root = await site.browser("root")
    for change in ({"disabled": True}, {"role": "reviewer"}):
        answer = await root.patch("/v1/accounts/root", json=change)
        assert (answer.status_code, answer.json()["reason"]) == (412, "refused")
    assert (await root.delete("/v1/accounts/root")).status_code == 412
    site.add("root2", Role.ADMIN)
    assert (await root.patch("/v1/accounts/root2", json={"role": "labeller"})).status_code == 200


async def test_a_new_password_signs_out_and_needs_the_old_one(site: Site) -> None:
    site.add("pia", Role.LABELLER)
    browser, other = await site.browser("pia"), await site.browser("pia")
    change = "/v1/session/password"
    wrong = await browser.post(change, json={"old": "no", "new": "a new one, long"})
    assert (wrong.status_code, wrong.json()["message"]) == (401, "the password is wrong")
    short = await browser.post(change, json={"old": password_of("pia"), "new": "short"})
    assert (short.status_code, short.json()["field"]) == (400, "password")
    new = {"old": password_of("pia"), "new": "quite another one"}
    assert (await browser.post(change, json=new)).status_code == 204
    assert (await status(browser), await status(other)) == (401, 401)
    async with site.client() as client:
        body = {"name": "pia", "password": "quite another one"}
        assert (await client.post("/v1/session", json=body)).status_code == 200


async def test_tokens_are_shown_once_and_end_when_revoked(site: Site) -> None:
    lars, rita = await site.browser("lars"), await site.browser("rita")
    made = await lars.post("/v1/tokens", json={"name": "my script", "days": 3})
    assert made.status_code == 201
    secret = made.json().pop("token")
    assert secret not in (await lars.get("/v1/tokens")).text
    with site.service.database.read() as session:
        stored = session.get_one(ApiToken, made.json()["id"])
    assert stored.secret_sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert timedelta(days=2.9) < stored.expires - datetime.now(UTC) < timedelta(days=3.1)
    async with site.client(secret) as program:
        assert (await program.get("/v1/session")).json()["name"] == "lars"
        place = f"/v1/tokens/{made.json()['id']}"
        assert (await rita.delete(place)).status_code == 404  # another's
        assert (await rita.get("/v1/tokens", params={"account": "lars"})).status_code == 403
        body = {"name": "x", "account": "root"}
        assert (await rita.post("/v1/tokens", json=body)).status_code == 403
        assert (await lars.delete(place)).status_code == 204
        assert await status(program) == 401
    root = await site.browser("root")
    seen = (await root.get("/v1/tokens", params={"account": "line-3"})).json()
    body = {"name": "camera", "account": "line-3"}
    assert (await root.post("/v1/tokens", json=body)).json()["account"] == "line-3"
    assert len((await root.get("/v1/tokens")).json()) > len(seen)


async def test_the_use_of_a_token_is_written_down(site: Site) -> None:
    site.add("used", Role.SERVICE, password=False)
    async with site.client(site.token("used")) as program:
        assert await status(program) == 200
        assert await status(program) == 200
    await site.gate.close()
    with site.service.database.read() as session:
        account = accounts.find(session, "used")
        ((token, _),) = tokens.listed(session, account)
    assert datetime.now(UTC) - token.last_used < timedelta(minutes=5)


@pytest.mark.parametrize(
    "header", ["Basic cm9vdDp4", "Bearer ", "Bearer vl_none", "vl_none", "Bearer \xff"]
)
async def test_other_credentials_are_refused_in_words(site: Site, header: str) -> None:
    async with site.client() as client:
        answer = await client.get(
            "/v1/datasets", headers={"Authorization": header.encode("latin-1")}
        )
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


async def test_people_speak_for_themselves_and_programs_for_others(site: Site) -> None:
    sha256 = ""

    async def upload(token: str, number: int, **fields: str):
        async with site.client(token) as client:
            return await client.post(
                "/v1/datasets/d/images", data=fields, files={"file": noise(number)}
            )

    lars, line = site.token("lars"), site.token("line-3")
    refused = await upload(lars, 1, label="a", author="rita")
    assert (refused.status_code, "labels as lars" in refused.json()["message"]) == (403, True)
    assert (await upload(lars, 1, label="a", author_kind="import")).status_code == 403
    assert (await upload(lars, 1, label="a")).status_code == 201
    sha256 = (await upload(line, 2, label="b", author="dr. who", author_kind="import")).json()[
        "sha256"
    ]
    async with site.client(lars) as client:
        body = {"sha256": sha256, "label": "c", "event_id": str(uuid.uuid4())}
        answer = await client.post("/v1/datasets/d/labels", json={**body, "author": "rita"})
        assert answer.status_code == 403
        assert (await client.post("/v1/datasets/d/labels", json=body)).status_code == 200
        history = (await client.get(f"/v1/datasets/d/images/{sha256}/history")).json()
    assert [(event["author"], event["author_kind"]) for event in history] == [
        ("dr. who", "import"),
        ("lars", "human"),
    ]


async def test_the_same_over_grpc(site: Site) -> None:
    async with site.grpc() as stub:
        bearer = (("authorization", f"Bearer {site.token('lars')}"),)
        row = pb.SubmitImageRequest(
            dataset="d", batch="g", ordinal=1, image=noise(7), label=pb.Label(class_name="a"),
            author_kind=pb.AUTHOR_KIND_HUMAN,
        )  # fmt: skip
        [receipt] = [one async for one in stub.SubmitImages(iter([row]), metadata=bearer)]
        history = await stub.GetHistory(
            pb.GetHistoryRequest(dataset="d", sha256=receipt.sha256), metadata=bearer
        )
        assert [event.author for event in history.events] == ["lars"]
        row.ordinal, row.author = 2, "rita"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [one async for one in stub.SubmitImages(iter([row]), metadata=bearer)]
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_pages_lead_to_the_login_and_back_to_ourselves_alone(site: Site) -> None:
    async with site.client(accept="text/html") as client:
        answer = await client.get("/datasets/d?x=1")
        assert (answer.status_code, answer.headers["location"]) == (
            303,
            "/login?next=/datasets/d%3Fx%3D1",
        )
        page = await client.get(answer.headers["location"])
        assert 'value="/datasets/d?x=1"' in page.text
        for wanted, goes_to in (
            ("/datasets/d?x=1", "/datasets/d?x=1"),
            ("//evil.example/", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example", "/"),
            ("/a\r\nset-cookie: b", "/"),
        ):
            form = {"name": "lars", "password": password_of("lars"), "next": wanted}
            answer = await client.post("/login", data=form)
            assert (answer.status_code, answer.headers["location"]) == (303, goes_to)
        assert (await client.get("/login?next=/x")).headers["location"] == "/x"
        form["password"] = "<b>wrong</b>"
        client.cookies.clear()
        answer = await client.post("/login", data={**form, "name": '"><script>'})
        assert answer.status_code == 401
        assert "<script>" not in answer.text.replace('<script type="module"', "")
        assert "The name or the password is wrong" in answer.text


def test_logins_end_idle_and_after_a_month(core) -> None:
    with core.database.write() as session:
        account = accounts.add(session, "a", Role.LABELLER)
        secret = logins.begin(session, account, NOW)

    def use(at: datetime) -> bool:
        with core.database.write() as session:
            found = logins.find(session, secret, at)
            if found is not None and found.extend:
                logins.extend(session, secret, at)
            return found is not None

    assert use(NOW + logins.IDLE - timedelta(seconds=1))
    assert use(NOW + 2 * logins.IDLE - timedelta(minutes=20))
    assert not use(NOW + 3 * logins.IDLE)
    with core.database.write() as session:
        secret = logins.begin(session, accounts.find(session, "a"), NOW)
        assert session.query(Login).count() == 2
        logins.begin(session, accounts.find(session, "a"), NOW + timedelta(days=9))
        assert session.query(Login).count() == 1  # those that ended are swept
        secret = logins.begin(session, accounts.find(session, "a"), NOW)
    at = NOW
    while at < NOW + logins.LONGEST:
        assert use(at)
        at += logins.IDLE - timedelta(minutes=11)
    assert not use(NOW + logins.LONGEST)


def test_a_tokens_use_is_written_once_a_minute_and_it_expires(core) -> None:
    with core.database.write() as session:
        account = accounts.add(session, "a", Role.SERVICE)
        _, secret = tokens.make(session, account, "t", NOW, timedelta(days=1))

        def found(at: datetime) -> bool | None:
            one = tokens.find(session, secret, at)
            return None if one is None else one.write_use

        assert found(NOW)
        tokens.write_use(session, tokens.find(session, secret, NOW).token_id, NOW)
        assert found(NOW + timedelta(seconds=59)) is False
        assert found(NOW + timedelta(seconds=60)) is True
        assert found(NOW + timedelta(days=1)) is None
        for number in range(tokens.MOST_PER_ACCOUNT - 1):
            tokens.make(session, account, str(number), NOW, None)
        with pytest.raises(RefusedError, match="revoke some"):
            tokens.make(session, account, "one more", NOW, None)


@pytest.mark.parametrize("name", ["", "A", "-a", "a b", "a/b", "local", "a" * 101, "é", "a\n"])
def test_names_that_are_none(core, name: str) -> None:
    with core.database.write() as session, pytest.raises(InvalidInputError) as caught:
        accounts.add(session, name, Role.ADMIN)
    assert caught.value.field == "name"


def test_passwords_keep_their_parameters_and_grow_with_them(monkeypatch) -> None:
    monkeypatch.setattr(passwords, "COST", CHEAP)
    stored = passwords.new("caf\u00e9 au lait, grand", name="a")
    assert stored.startswith("scrypt:16:8:1:")
    assert passwords.matches("cafe\u0301 au lait, grand", stored)  # typed on another keyboard
    assert not passwords.matches("cafe au lait, grand", stored)
    assert not passwords.is_weak(stored)
    monkeypatch.setattr(passwords, "COST", passwords.Cost(n=32, r=8, p=1))
    assert passwords.is_weak(stored)
    assert passwords.matches("caf\u00e9 au lait, grand", stored)
    for odd in ("", "plain", "scrypt:x:8:1:a:b", "scrypt:16:8:1:a", "md5:16:8:1:aaaa:bbbb"):
        assert not passwords.matches("", odd)


def test_two_administrators_cannot_disable_one_another_at_once(core) -> None:
    with core.database.write() as session:
        for name in ("a", "b"):
            accounts.add(session, name, Role.ADMIN)
    outcomes = []

    def disable(name: str) -> None:
        try:
            with core.database.write() as session:
                accounts.change(session, accounts.find(session, name, lock=True), disabled=True)
            outcomes.append("done")
        except RefusedError:
            outcomes.append("refused")

    threads = [threading.Thread(target=disable, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["done", "refused"]


async def test_usage_is_counted_on_both_databases(core, anyio_backend) -> None:
    with core.database.write() as session:
        account = accounts.add(session, "a", Role.SERVICE)
    caller = accounts.Caller("a", Role.SERVICE, account.id)
    for _ in range(2):
        counted = quotas.Quotas(core.database, images=3)
        await counted.take(caller, 10)
        await counted.close()
    counted = quotas.Quotas(core.database, images=3)
    await counted.take(caller, 10)
    with pytest.raises(OverloadedError):
        await counted.take(caller, 10)
    await counted.close()
    with core.database.read() as session:
        [usage] = session.scalars(select(Usage)).all()
    assert (usage.images, usage.bytes) == (3, 30)


async def test_a_weakly_stored_password_is_stored_anew(site: Site, monkeypatch) -> None:
    site.add("old", Role.LABELLER)
    monkeypatch.setattr(passwords, "COST", passwords.Cost(n=32, r=8, p=1))
    await site.browser("old")
    with site.service.database.read() as session:
        assert accounts.find(session, "old").password.startswith("scrypt:32:")
    await site.browser("old", address="10.3.0.1")


@pytest.mark.parametrize(
    ("password", "words"),
    [("short", "12 to 200"), ("x" * 201, "12 to 200"), ("annabelle-12", "mostly the account")],
)
def test_passwords_that_are_none(password: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        passwords.new(password, name="annabelle")


def test_accounts_from_the_command_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(passwords, "COST", CHEAP)
    url = f"sqlite:///{tmp_path / 'l.db'}"
    monkeypatch.setenv("VISIONLOOP_DATABASE", url)
    file = tmp_path / "password"
    file.write_text("from a file, long\n")

    def run(*arguments: str) -> str:
        assert account_commands.run(arguments) == 0
        return capsys.readouterr().out

    run("add", "root", "--role", "admin", "--password-file", str(file))
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe, longer\nrest"))
    run("add", "rita", "--role", "reviewer")
    run("add", "line-3", "--role", "service", "--no-password")
    secret = run("token", "line-3", "--for", "camera").strip()
    listed = {one["name"]: one for one in json.loads(run("list", "--json"))}
    assert {name: one["role"] for name, one in listed.items()} == {
        "line-3": "service", "rita": "reviewer", "root": "admin",
    }  # fmt: skip
    assert "token" in run("list")
    run("disable", "rita")
    monkeypatch.setattr("sys.stdin", io.StringIO("another one, longer\n"))
    run("password", "rita")
    with pytest.raises(ConflictError):
        account_commands.run(["add", "root", "--role", "admin", "--no-password"])
    with pytest.raises(RefusedError, match="last administrator"):
        account_commands.run(["disable", "root"])
    database = open_database(url)
    with database.read() as session:
        root, rita = accounts.find(session, "root"), accounts.find(session, "rita")
        assert passwords.matches("from a file, long", root.password)
        assert passwords.matches("another one, longer", rita.password)
        assert rita.disabled
        assert tokens.find(session, secret, datetime.now(UTC)).account.name == "line-3"
    database.close()


def test_commands_work_beside_a_running_service(tmp_path, capsys) -> None:
    """On SQLite too: the program that holds the file sees the account with its next request."""
    url = f"sqlite:///{tmp_path / 'l.db'}"
    running = open_database(url)
    account_commands.run(["add", "line-3", "--role=service", "--no-password", f"--database={url}"])
    account_commands.run(["token", "line-3", f"--database={url}"])
    secret = capsys.readouterr().out.splitlines()[-1]
    with running.read() as session:
        assert tokens.find(session, secret, datetime.now(UTC)).account.name == "line-3"
    with pytest.raises(ConfigurationError, match="in use by process"):
        open_database(url)  # another service is still kept out
    with running.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    with pytest.raises(ConfigurationError, match=r"of another version .* stop the service"):
        account_commands.run(["list", f"--database={url}"])
    running.close()
