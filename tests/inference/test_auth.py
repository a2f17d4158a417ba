"""Tokens, scopes, and the table of what each RPC needs."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from visionloop.errors import ConfigurationError, PermissionDeniedError, UnauthenticatedError
from visionloop.proto.inference import open_inference_pb2
from visionloop.proto.v1 import recognition_pb2
from visionloop_inference import auth
from visionloop_inference.auth import ADMIN, METHODS, OPEN, Gate, read_tokens

RECOGNIZE = "/visionloop.v1.Recognition/Recognize"
LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"
CHECK = "/grpc.health.v1.Health/Check"
LINE, OPS = "token-of-the-line-3", "token-of-the-operators"


def bearer(token: str) -> list[tuple[str, str]]:
    return [("user-agent", "a test"), ("authorization", f"Bearer {token}")]


def tokens(path: Path, *entries: dict[str, object]) -> Path:
    path.write_text(json.dumps(entries))
    return path


def entry(name: str, token: str, *scopes: str) -> dict[str, object]:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return {"name": name, "sha256": digest, "scopes": list(scopes)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tokens(
        tmp_path / "tokens.yaml",
        entry("line-3", LINE, "infer", "feedback"),
        {"name": "ops", "token": OPS, "scopes": ["metadata", "admin"]},
    )


@pytest.fixture
def gate(file: Path) -> Gate:
    return Gate(file, loopback=True)


def test_every_method_that_the_server_could_offer_is_in_the_table() -> None:
    offered = {
        f"/{service.full_name}/{method.name}"
        for module in (recognition_pb2, open_inference_pb2, health_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert offered <= METHODS.keys()


def test_callers_have_names_and_scopes(gate: Gate) -> None:
    assert gate.check(RECOGNIZE, bearer(LINE)) == "line-3"
    assert gate.check(LOAD, bearer(OPS)) == "ops"
    for method, token, said in (
        (LOAD, LINE, "needs the scope admin; 'line-3' has feedback, infer"),
        (RECOGNIZE, OPS, "needs the scope infer; 'ops' has admin, metadata"),
    ):
        with pytest.raises(PermissionDeniedError, match=said):
            gate.check(method, bearer(token))


def test_who_infers_may_ask_what_there_is(gate: Gate) -> None:
    for name in ("ServerMetadata", "ModelMetadata", "ModelConfig", "ModelReady"):
        gate.check(f"/inference.GRPCInferenceService/{name}", bearer(LINE))
        gate.check(f"/inference.GRPCInferenceService/{name}", bearer(OPS))
    with pytest.raises(PermissionDeniedError):
        gate.check("/inference.GRPCInferenceService/ModelStatistics", bearer(LINE))


@pytest.mark.parametrize("method", [m for m, scopes in METHODS.items() if scopes is OPEN])
def test_health_and_reflection_are_open(gate: Gate, method: str) -> None:
    assert gate.check(method, []) == ""


def test_a_method_that_nobody_listed_needs_admin(gate: Gate) -> None:
    with pytest.raises(PermissionDeniedError, match="needs the scope admin"):
        gate.check("/inference.GRPCInferenceService/Forgotten", bearer(LINE))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ([], "wants a bearer token"),
        ([("authorization-2", f"Bearer {LINE}")], "wants a bearer token"),
        ([("authorization", f"Basic {LINE}")], "another scheme"),
        ([("authorization", "Bearer")], "another scheme"),
        ([("authorization", "Bearer ")], "not one of this server's"),
        ([("authorization", f"Bearer {LINE}x")], "not one of this server's"),
        ([("authorization", "Bearer \udcff")], "not one of this server's"),
        ([("authorization", b"Bearer \xff\x00")], "not one of this server's"),
        (bearer(hashlib.sha256(LINE.encode()).hexdigest()), "not one of this server's"),
    ],
)
def test_who_is_not_known_is_told_so_without_the_token(
    gate: Gate, metadata: list[tuple[str, str | bytes]], said: str
) -> None:
    with pytest.raises(UnauthenticatedError, match=said) as caught:
        gate.check(RECOGNIZE, metadata)
    assert LINE not in str(caught.value)


def test_the_scheme_is_read_in_any_case(gate: Gate) -> None:
    assert gate.check(RECOGNIZE, [("authorization", f"bearer  {LINE} ")]) == "line-3"
    assert gate.check(RECOGNIZE, [("authorization", f"BEARER {LINE}".encode())]) == "line-3"


def test_without_tokens_only_this_machine_is_the_administrator() -> None:
    assert Gate(None, loopback=True).check(LOAD, []) == ""
    far = Gate(None, loopback=False)
    assert far.check(RECOGNIZE, []) == far.check(CHECK, []) == ""
    with pytest.raises(PermissionDeniedError, match="no --tokens, and does not listen on loopback"):
        far.check(LOAD, [])


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked at with every call."""
    monkeypatch.setattr(auth, "LOOK_EVERY", 0.0)


@pytest.mark.usefixtures("hurried")
def test_changes_of_the_file_are_seen(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(file, loopback=True)
    fresh = tokens(file.with_name("fresh"), entry("line-4", LINE, "infer"))
    fresh.replace(file)
    assert gate.check(RECOGNIZE, bearer(LINE)) == "line-4"
    with pytest.raises(UnauthenticatedError):
        gate.check(LOAD, bearer(OPS))
    file.unlink()
    assert gate.check(RECOGNIZE, bearer(LINE)) == "line-4"
    assert "the tokens before stay in force" in caplog.text
    file.write_text("[")
    assert gate.check(RECOGNIZE, bearer(LINE)) == "line-4"
    tokens(file)  # nobody any more
    with pytest.raises(UnauthenticatedError):
        gate.check(RECOGNIZE, bearer(LINE))
    assert LINE not in caplog.text


def test_the_file_is_not_looked_at_with_every_call(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(file, loopback=True)
    now = auth.time.monotonic()
    clock: Callable[[], float] = lambda: now + 0.5  # noqa: E731
    monkeypatch.setattr(auth.time, "monotonic", clock)
    os.truncate(file, 0)
    file.write_text("[]")
    assert gate.check(RECOGNIZE, bearer(LINE)) == "line-3"
    monkeypatch.setattr(auth.time, "monotonic", lambda: now + 1.5)
    with pytest.raises(UnauthenticatedError):
        gate.check(RECOGNIZE, bearer(LINE))


SECRET = "a-secret-that-nobody-shows"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "is neither YAML nor JSON"),
        ("just text", "is wrong at its content"),
        ("- junk", "is wrong at 1: no entry; it is a list of name, sha256"),
        (f"- name: a\n  token: {SECRET}\n  scopes: [infer, all]", r"at 1\.scopes\.2: Input should"),
        (f"- name: a\n  token: {SECRET}\n", r"at 1\.scopes: Field required"),
        (f"- name: a\n  token: {SECRET}\n  scopes: []", r"at 1\.scopes: List should have"),
        ("- name: a\n  token: short\n  scopes: [infer]", "at least 16 characters"),
        (f"- name: a\n  token: '{SECRET} x'\n  scopes: [infer]", r"1\.token: String should match"),
        ("- name: a\n  sha256: abc\n  scopes: [infer]", r"1\.sha256: String should match"),
        ("- name: a\n  scopes: [infer]", "give either sha256 or token"),
        (
            f"- name: a\n  token: {SECRET}\n  sha256: {'a' * 64}\n  scopes: [infer]",
            "give either sha256 or token",
        ),
        (f"- name: a\n  token: {SECRET}\n  scopes: [infer]\n  scope: x", "Extra inputs"),
        (
            f"- {{name: a, token: {SECRET}, scopes: [infer]}}\n"
            f"- {{name: b, token: {SECRET}, scopes: [infer]}}",
            r"entry 2 \(b\) has the token of a",
        ),
    ],
)
def test_files_of_tokens_that_cannot_be_used(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(ConfigurationError, match=said) as caught:
        read_tokens(tmp_path / "tokens")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_that_is_too_large_is_not_read_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cut between two entries looks whole, and locks the callers behind it out."""
    entries = [f"- {{name: {name}, token: {name * 20}, scopes: [infer]}}\n" for name in "ab"]
    path = tmp_path / "tokens.yaml"
    path.write_text("".join(entries))
    monkeypatch.setattr(auth, "MOST_BYTES", len("".join(entries)))
    assert len(read_tokens(path)) == 2
    monkeypatch.setattr(auth, "MOST_BYTES", len(entries[0]))
    with pytest.raises(ConfigurationError, match=r"tokens\.yaml is larger than \d+ bytes"):
        read_tokens(path)


def test_a_missing_file_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--tokens .* cannot be read: No such file"):
        Gate(tmp_path / "none", loopback=True)


def test_one_caller_may_have_two_tokens_while_they_are_changed(tmp_path: Path) -> None:
    path = tokens(tmp_path / "t", entry("a", "first" * 4, "infer"), entry("a", "next" * 4, "infer"))
    gate = Gate(path, loopback=False)
    assert gate.check(RECOGNIZE, bearer("first" * 4)) == gate.check(RECOGNIZE, bearer("next" * 4))


def test_the_table_holds_only_known_scopes() -> None:
    assert frozenset().union(*METHODS.values()) == {"infer", "feedback", "metadata", "admin"}
    assert METHODS[LOAD] is ADMIN
