"""`visionloop predict` for many files, over TLS and with a token; `visionloop feedback`."""

import hashlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import command_line
from support.bundles import LABELS, encoded, publish_bundle
from support.certificates import SERVER_NAMES, Pair, authority, signed
from support.command_line import environment, result, visionloop
from support.inference_server import Server, running_server
from support.waiting import wait_for

from visionloop.feedback import FOLDER, parse_feedback
from visionloop.objectstore import ObjectStore, open_store
from visionloop.repository import ModelRepository

TOKEN = "token-of-the-command-line"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    store = open_store(f"file://{tmp_path_factory.mktemp('store')}/store")
    publish_bundle(ModelRepository(store), seed=1, promote=True)
    return store


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, store: ObjectStore
) -> Iterator[tuple[Server, Path]]:
    """A server with mutual TLS and tokens, and the folder of its certificates."""
    folder = tmp_path_factory.mktemp("server")
    ca = authority(folder, "ca")
    signed(folder, "server", ca, extension=f"{SERVER_NAMES},DNS:inference.vision.svc")
    signed(folder, "client", Pair(ca.certificate, ca.key), extension="keyUsage=digitalSignature")
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    entry = {"name": "cli", "sha256": digest, "scopes": ["infer", "feedback"]}
    (folder / "tokens").write_text(json.dumps([entry]))
    flags = (
        f"--tls-certificate={folder}/server.crt", f"--tls-key={folder}/server.key",
        f"--tls-client-ca={folder}/ca.crt", f"--tokens={folder}/tokens", "--https-port=0",
    )  # fmt: skip
    with running_server(folder / "server", store.url, *flags) as running:
        wait_for(lambda: running.get("/readyz")[0] == 200)
        yield running, folder


def use_token(monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    """What the CLI finds in its environment from here on."""
    found = {"VISIONLOOP_TOKEN": token} if token is not None else {}
    monkeypatch.setattr(command_line, "environment", lambda: {**environment(), **found})


@pytest.fixture
def flags(server: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    use_token(monkeypatch, TOKEN)
    running, folder = server
    port = running.target.rpartition(":")[2]
    return [
        "--target", f"localhost:{port}", "--tls-ca", f"{folder}/ca.crt",
        "--tls-certificate", f"{folder}/client.crt", "--tls-key", f"{folder}/client.key",
    ]  # fmt: skip


def test_many_files_are_a_stream(flags: list[str], tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.jpg" for n in range(70)]
    for n, path in enumerate(paths):
        path.write_bytes(encoded(n))
    paths[40].write_bytes(b"no image")
    few = result("predict", *paths[:10], "--top-k", "1", *flags)
    many = result("predict", *paths, "--top-k", "1", *flags, code=65)
    assert [row["image"] for row in many] == [str(path) for path in paths]
    assert [row["labels"] for row in many[:10]] == [row["labels"] for row in few]
    assert "not an image" in many[40]["error"]
    assert sum(row["error"] is not None for row in many) == 1
    said = visionloop("predict", *paths, tmp_path / "none.jpg", *flags, code=66)
    assert "there is no file" in said


def test_feedback_goes_into_the_store(flags: list[str], store: ObjectStore, tmp_path: Path) -> None:
    image = tmp_path / "cell.jpg"
    image.write_bytes(encoded(3))
    [row] = result("predict", image, *flags)
    ident, mine = row["prediction_id"], str(uuid.uuid4())
    sent = ("feedback", ident, "--class", LABELS[1], "--image", image, "--note", "a crack")
    receipt = {"feedback_id": mine, "created": True, "unknown_class_ids": []}
    assert result(*sent, "--id", mine, *flags) == receipt
    assert "it was there before" in visionloop(*sent, "--id", mine, *flags)
    found = parse_feedback(store.get(f"{FOLDER}{mine}").data, mine)
    assert (found.header.class_id, found.header.note) == (LABELS[1], "a crack")
    assert (found.header.caller, found.image) == ("cli", encoded(3))
    digest = hashlib.sha256(encoded(3)).hexdigest()
    wrong = result("feedback", ident, "--wrong", "--image-sha256", digest, *flags)
    stored = store.get(f"{FOLDER}{wrong['feedback_id']}")
    assert parse_feedback(stored.data, stored.key).header.verdict == "wrong"
    newer = result("feedback", ident, "--class", "dog", "--image", image, *flags)
    assert newer["unknown_class_ids"] == ["dog"]
    for arguments, code, words in (
        ((ident, "--class", "Dog", "--image", image), 64, "'Dog' is no class of model"),
        ((ident, "--wrong", "--image", image, "--id", mine), 75, "sent before with other content"),
        (("nonsense", "--wrong", "--image", image), 64, "prediction_id is 'nonsense'"),
        ((ident, "--classes", "--image", image), 64, "gives an image one class"),
        ((ident, "--classes", "a", "b", "--image", image), 64, "gives an image one class"),
        ((ident, "--image", image), 64, "--class --classes --wrong"),
        ((ident, "--wrong"), 64, "--image --image-sha256"),
        ((ident, "--wrong", "--image", tmp_path / "none"), 66, "there is no file"),
    ):
        said = visionloop("feedback", *arguments, *flags, code=code)
        assert words in said, said
        assert "Traceback" not in said


def test_the_name_in_the_certificate_may_be_another_than_the_address(
    flags: list[str], tmp_path: Path
) -> None:
    image = tmp_path / "cell.jpg"
    image.write_bytes(encoded(3))
    assert result("predict", image, *flags, "--tls-server-name", "inference.vision.svc")
    other = ("--tls-server-name", "other.vision.svc", "--timeout", "3")
    address = flags[1].replace("localhost", "127.0.0.1")
    said = visionloop("predict", image, "--target", address, *flags[2:], *other, code=69)
    assert "has a certificate that does not prove it" in said
    said = visionloop("predict", image, *flags[:2], *other, code=64)
    assert "--tls-server-name is for TLS: give --tls or --tls-ca as well" in said


def test_what_is_missing_for_a_secured_service_is_told(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "cell.jpg"
    image.write_bytes(encoded(3))
    assert "belong together" in visionloop("predict", image, *flags[:-2], code=64)
    said = visionloop("predict", image, *flags[:2], "--tls-ca", tmp_path / "no.pem", code=64)
    assert "cannot read" in said
    said = visionloop("predict", image, *flags[:2], "--tls-ca", image, code=64)
    assert said.endswith("cell.jpg holds no certificate in PEM form\n")
    said = visionloop("predict", image, *flags[:-1], image, code=64)
    assert "are no certificate and its key" in said
    use_token(monkeypatch, None)
    assert "wants a bearer token" in visionloop("predict", image, *flags, code=77)
    use_token(monkeypatch, "two words")
    assert "visible ASCII" in visionloop("predict", image, *flags, code=64)
