"""What only the S3 store can meet: lost answers, broken bodies, wrong keys, absent servers."""

import hashlib
import os
import ssl
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import authority, signed
from support.faults import ALWAYS, Fault, FaultyProxy, faulty_proxy
from support.stores import BUCKET, READER_KEY, SECRET_KEY, S3Server, free_ports

from visionloop.errors import (
    ConfigurationError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    VisionloopError,
)
from visionloop.objectstore import ObjectStore, S3Account, open_store
from visionloop.objectstore.s3_errors import shown_endpoint
from visionloop.repository import ModelRepository

pytestmark = pytest.mark.s3
BIG = 33 * 2**20  # travels in parts


@pytest.fixture
def proxy(
    s3_url: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        yield proxy


@pytest.fixture
def proxied(s3_url: str, proxy: FaultyProxy) -> ObjectStore:
    """A store behind a proxy that can break its answers."""
    return open_store(s3_url)


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """The size of an object that travels in two parts; S3 takes none below 5 MiB but the last."""
    monkeypatch.setattr("visionloop.objectstore.s3.PARALLEL_BYTES", 2**20)
    monkeypatch.setattr("visionloop.objectstore.s3.PART_BYTES", 5 * 2**20)
    return 5 * 2**20 + 1000


class TestLostAnswers:
    def test_a_claim_whose_answer_was_lost_is_won(
        self, proxied: ObjectStore, proxy: FaultyProxy
    ) -> None:
        proxy.faults = [Fault("PUT", "lose_answer")]
        etag = proxied.put_if_absent("key", b"mine")
        assert proxy.count("PUT") == 2  # so the second one met the first one's object
        assert proxied.get("key").etag == etag
        with pytest.raises(ConflictError):
            proxied.put_if_absent("key", b"mine")

    def test_a_swap_whose_answer_was_lost_is_won(
        self, proxied: ObjectStore, proxy: FaultyProxy
    ) -> None:
        first = proxied.put("key", b"1")
        proxy.faults = [Fault("PUT", "lose_answer")]
        second = proxied.compare_and_swap("key", b"2", first)
        stored = proxied.get("key")
        assert (stored.data, stored.etag) == (b"2", second)

    def test_an_equal_object_of_somebody_else_is_a_conflict(
        self, proxied: ObjectStore, proxy: FaultyProxy
    ) -> None:
        proxied.put_if_absent("key", b"same")
        proxy.faults = [Fault("PUT", "lose_answer")]
        with pytest.raises(ConflictError):
            proxied.put_if_absent("key", b"same")

    def test_a_large_upload_whose_answer_was_lost_is_there(
        self, proxied: ObjectStore, proxy: FaultyProxy, tmp_path: Path, in_parts: int
    ) -> None:
        """Asked again, most servers know the upload no more: it is an object now."""
        (tmp_path / "file").write_bytes(data := os.urandom(in_parts))
        proxy.faults = [Fault("POST", kind, part="uploadId") for kind in ("lose_answer", "forget")]
        etag = proxied.upload(tmp_path / "file", "key")
        assert sum("uploadId" in one for one in proxy.requests if one.startswith("POST")) == 2
        stored = proxied.get("key")
        assert (stored.data, stored.etag) == (data, etag)

    def test_a_large_upload_that_somebody_ended_has_failed(
        self, proxied: ObjectStore, s3_server: S3Server, tmp_path: Path, in_parts: int
    ) -> None:
        """A clean-up of unfinished uploads, while another object is there."""
        proxied.put("key", b"another")
        (tmp_path / "file").write_bytes(bytes(in_parts))
        client = proxied._client  # type: ignore[attr-defined]

        def end(params: dict[str, Any], **_: object) -> None:
            name = {key: params[key] for key in ("Bucket", "Key", "UploadId")}
            s3_server.client().abort_multipart_upload(**name)

        client.meta.events.register("provide-client-params.s3.CompleteMultipartUpload", end)
        with pytest.raises(UnavailableError, match="somebody ended the upload"):
            proxied.upload(tmp_path / "file", "key")
        assert proxied.get("key").data == b"another"

    def test_a_put_is_repeated(self, proxied: ObjectStore, proxy: FaultyProxy) -> None:
        proxy.faults = [Fault("PUT", "lose_answer")]
        proxied.put("key", b"data")
        assert proxied.get("key").data == b"data"


class TestBrokenBodies:
    @pytest.mark.parametrize("size", [1000, BIG])
    def test_a_body_that_breaks_off_is_fetched_again(
        self, proxied: ObjectStore, proxy: FaultyProxy, tmp_path: Path, size: int
    ) -> None:
        data = os.urandom(size)
        proxied.put("key", data)
        proxy.faults = [Fault("GET", "cut_body", times=2)]
        proxied.download("key", tmp_path / "file", sha256=hashlib.sha256(data).hexdigest())
        assert (tmp_path / "file").read_bytes() == data
        proxy.faults = [Fault("GET", "cut_body")]
        assert proxied.get("key").data == data

    @pytest.mark.parametrize("size", [1000, BIG])
    def test_a_body_that_always_breaks_off(
        self, proxied: ObjectStore, proxy: FaultyProxy, tmp_path: Path, size: int
    ) -> None:
        proxied.put("key", bytes(size))
        proxy.faults = [Fault("GET", "cut_body", times=10**6)]
        folder = tmp_path / "download"
        with pytest.raises(UnavailableError, match="keeps breaking off"):
            proxied.download("key", folder / "file", sha256="0" * 64)
        assert list(folder.iterdir()) == []
        if size == 1000:
            with pytest.raises(UnavailableError, match="keeps breaking off"):
                proxied.get("key")

    def test_a_replaced_object_is_not_mixed_with_the_old_one(
        self, proxied: ObjectStore, proxy: FaultyProxy, tmp_path: Path
    ) -> None:
        """The parts of a download are conditional on the etag that the first answer had."""
        proxied.put("key", bytes(BIG))
        proxied.download("key", tmp_path / "file", sha256=hashlib.sha256(bytes(BIG)).hexdigest())
        assert proxy.count("GET") == 6  # the first look, and five parts


class TestServerTrouble:
    def test_a_busy_server_is_asked_again(self, proxied: ObjectStore, proxy: FaultyProxy) -> None:
        proxy.faults = [Fault("PUT", "busy"), Fault("GET", "busy"), Fault("HEAD", "busy")]
        proxied.put_if_absent("key", b"1")
        assert proxied.get("key").data == b"1"
        assert proxied.stat("key").size == 1

    def test_a_server_that_stays_busy(self, proxied: ObjectStore, proxy: FaultyProxy) -> None:
        proxy.faults = [Fault(method, "busy", times=10**6) for method in ("PUT", "GET")]
        for call in (
            lambda: proxied.put("key", b""),
            lambda: proxied.put_if_absent("key", b""),
            lambda: proxied.get("key"),
            lambda: list(proxied.list()),
        ):
            with pytest.raises(UnavailableError, match="keeps answering 503 SlowDown"):
                call()

    def test_a_limit_of_requests_is_no_mistake_of_the_settings(
        self, proxied: ObjectStore, proxy: FaultyProxy
    ) -> None:
        """429, with whatever word: a Job must try again (69), not give up (64)."""
        proxy.faults = [Fault("*", "limit", times=ALWAYS)]
        with pytest.raises(UnavailableError, match="429 RateLimitExceeded; try later") as caught:
            proxied.get("key")
        assert caught.value.exit_code == 69

    def test_an_object_that_is_replaced_while_it_is_read(
        self, s3_url: str, tmp_path: Path, in_parts: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = open_store(s3_url)
        store.put("key", bytes(in_parts))
        fetch = store._fetch_parts  # type: ignore[attr-defined]

        def replaced(*arguments: Any) -> Any:
            store.put("key", b"1" * in_parts)
            return fetch(*arguments)

        monkeypatch.setattr(store, "_fetch_parts", replaced)
        with pytest.raises(ConflictError, match="replaced while it was read; try again"):
            store.download("key", tmp_path / "file", sha256="0" * 64)

    def test_a_failed_upload_leaves_nothing(
        self, proxied: ObjectStore, proxy: FaultyProxy, s3_server: S3Server, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_bytes(bytes(BIG))
        proxy.faults = [Fault("PUT", "refuse", part="partNumber=2")]
        with pytest.raises(PermissionDeniedError):
            proxied.upload(tmp_path / "file", "key")
        assert list(proxied.list()) == []
        uploads = s3_server.client().list_multipart_uploads(Bucket=BUCKET)
        assert not [one for one in uploads.get("Uploads", []) if one["Key"].endswith("/key")]

    def test_nobody_listens(
        self, s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        store = open_store(s3_url)
        for call in (
            lambda: store.get("key"),
            lambda: store.put("key", b""),
            lambda: store.put_if_absent("key", b""),
            lambda: store.stat("key"),
            lambda: list(store.list()),
            lambda: store.download("key", tmp_path / "file", sha256="0" * 64),
            store.probe,
        ):
            with pytest.raises(UnavailableError, match=f"{endpoint} cannot be reached") as caught:
                call()
            assert "AWS_ENDPOINT_URL" in str(caught.value)
            assert caught.value.exit_code == 69

    def test_the_variable_that_is_in_force_is_named(
        self, s3_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who changes the other one, which a pod has not, changes nothing."""
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_ports(1)[0]}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(UnavailableError, match="check AWS_ENDPOINT_URL_S3, the network"):
            open_store(s3_url).get("key")


def every_call(store: ObjectStore, tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "file").write_bytes(b"1")
    yield lambda: store.get("key")
    yield lambda: store.put("key", b"1")
    yield lambda: store.put_if_absent("key", b"1")
    yield lambda: list(store.list())
    yield lambda: list(store.list_folders(""))
    yield lambda: store.upload(tmp_path / "file", "key")
    yield lambda: store.download("key", tmp_path / "out", sha256="0" * 64)
    yield store.probe


def test_a_proxy_that_lost_its_way_empties_no_store(
    proxied: ObjectStore, proxy: FaultyProxy, tmp_path: Path
) -> None:
    """An ingress says 404 to everything while the service behind it is gone."""
    proxied.put("key", b"1")
    proxy.faults = [Fault("*", "astray", times=ALWAYS)]
    repository = ModelRepository(proxied)
    calls = [
        *every_call(proxied, tmp_path),
        lambda: proxied.compare_and_swap("key", b"2", "etag"),
        lambda: repository.aliases("cells"),
        repository.models,
    ]
    for call in calls:
        with pytest.raises(UnavailableError, match=r"answers 404.*check AWS_ENDPOINT_URL"):
            call()


class TestAccess:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("AWS_SECRET_ACCESS_KEY", "a-wrong-secret"),
            ("AWS_ACCESS_KEY_ID", "nobody-known"),
        ],
    )
    def test_wrong_credentials(
        self, s3_url: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, tmp_path: Path
    ) -> None:
        monkeypatch.setenv(name, value)
        store = open_store(s3_url)
        for call in every_call(store, tmp_path):
            with pytest.raises(UnauthenticatedError, match="check AWS_ACCESS_KEY_ID") as caught:
                call()
            assert caught.value.exit_code == 77
            assert SECRET_KEY not in str(caught.value)
            assert value not in str(caught.value)

    def test_no_credentials(
        self, s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        store = open_store(s3_url)
        for call in every_call(store, tmp_path):
            with pytest.raises(UnauthenticatedError, match="no credentials"):
                call()

    def test_half_credentials(self, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(UnauthenticatedError, match="AWS_SECRET_ACCESS_KEY"):
            open_store(s3_url).get("key")

    def test_a_reader_may_not_write(
        self, s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        open_store(s3_url).put("key", b"1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
        store = open_store(s3_url)
        assert store.get("key").data == b"1"
        assert [stat.key for stat in store.list()] == ["key"]
        (tmp_path / "file").write_bytes(b"1")
        for call in (
            lambda: store.put("key", b"2"),
            lambda: store.put_if_absent("other", b"2"),
            lambda: store.upload(tmp_path / "file", "key"),
            lambda: store.delete("key"),
            store.probe,
        ):
            with pytest.raises(
                PermissionDeniedError, match=f"rights they have on bucket '{BUCKET}'"
            ):
                call()
        assert store.get("key").data == b"1"

    def test_a_missing_bucket(self, s3_url: str, tmp_path: Path) -> None:
        store = open_store("s3://no-such-bucket/prefix")
        for call in every_call(store, tmp_path):
            with pytest.raises(
                ConfigurationError, match=r"'no-such-bucket' does not exist .*create"
            ):
                call()

    @pytest.mark.parametrize("endpoint", ["not a url", "127.0.0.1:1", "http://"])
    def test_an_endpoint_that_is_none(
        self, s3_url: str, monkeypatch: pytest.MonkeyPatch, endpoint: str
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(VisionloopError, match="AWS_"):
            open_store(s3_url).get("key")

    def test_an_endpoint_that_is_none_is_not_repeated(
        self, s3_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "me:hunter2@minio:9000")
        with pytest.raises(ConfigurationError, match="AWS_ENDPOINT_URL") as caught:
            open_store(s3_url).get("key")
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))

    def test_a_password_in_the_endpoint_is_not_shown(self) -> None:
        assert shown_endpoint("https://me:hunter2@host:1/x?y=z") == "https://host:1"


class TestConditionsIgnored:
    """A server without conditional writes: the real one, asked without the conditions."""

    @pytest.mark.parametrize(
        ("header", "named"),
        [("If-None-Match", "put-if-absent"), ("If-Match", "compare-and-swap")],
    )
    def test_the_probe_refuses(self, s3_url: str, header: str, named: str) -> None:
        store = open_store(s3_url)

        def strip(request: Any, **_: object) -> None:
            del request.headers[header]

        store._client.meta.events.register("before-sign.s3.PutObject", strip)  # type: ignore[attr-defined]
        with pytest.raises(ConfigurationError, match=f"ignores {named}") as caught:
            store.probe()
        assert "Use a store with conditional writes" in str(caught.value)
        assert list(store.list()) == []


def test_a_second_server_has_authorities_of_its_own(
    s3_url: str, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, of_the_store = authority(tmp_path, "own"), authority(tmp_path, "store")
    pair = signed(tmp_path, "server", own)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.certificate, pair.key)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(of_the_store.certificate))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with faulty_proxy(s3_server.endpoint, tls) as proxy:
        said = {"B_AWS_ENDPOINT_URL_S3": proxy.url}
        with pytest.raises(UnavailableError, match="check its certificate"):
            open_store(s3_url, S3Account.from_environment("B_", said)).put("key", b"")
        said["B_AWS_CA_BUNDLE"] = str(own.certificate)
        assert open_store(s3_url, S3Account.from_environment("B_", said)).put("key", b"")


def test_not_there_says_where(s3_url: str) -> None:
    with pytest.raises(NotFoundError, match=f"{s3_url}/some/key is not there"):
        open_store(s3_url).get("some/key")


def test_boto3_is_imported_for_s3_only(tmp_path: Path) -> None:
    program = (
        "import sys; from visionloop.objectstore import open_store\n"
        f"open_store('file://{tmp_path}/store').put('key', b'')\n"
        "sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
