"""The store in an S3-compatible bucket, through boto3 and the standard AWS_* variables.

Conditional writes are PUTs with If-None-Match: * or If-Match. Each carries the writer's own mark in
the object's metadata, because a PUT whose answer was lost is repeated by botocore and then collides
with itself: a 412 over our own mark is a success, not a conflict. Where several answers mean "you
lost" (412 from AWS, 404 for a vanished object, 409 while another write is under way) all are heard.

Integrity: writes carry Content-MD5, which every server checks (not every one knows the newer CRC
trailers); reads for `download` are checked by sha256 as they arrive.
Objects over PARALLEL_BYTES travel in parts, several at a time. On loopback, where parts can only
cost, they take 1.6 times as long at 16 MiB and as long from 32 MiB on, so the limit is there. A
killed upload leaves parts that no listing shows; a lifecycle rule for incomplete uploads removes
them.
"""

import base64
import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC
from pathlib import Path
from typing import Any, BinaryIO

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from visionloop.errors import (
    ConfigurationError,
    ConflictError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from visionloop.objectstore.account import S3Account
from visionloop.objectstore.base import ObjectStat, StoredObject
from visionloop.objectstore.keys import check_key, check_prefix
from visionloop.objectstore.local import check_content, written_whole
from visionloop.objectstore.probe import probe_conditional_writes
from visionloop.objectstore.retry import retrying
from visionloop.objectstore.s3_errors import (
    body_broke,
    error_code,
    error_status,
    read_body,
    translating,
)
from visionloop.objectstore.transfers import THREADS, Transfers, in_parallel

PARALLEL_BYTES = 32 * 2**20
PART_BYTES = 8 * 2**20
MAX_PARTS = 10_000  # of one upload, the limit of S3
MAX_PREFIX_BYTES = 120  # with a key of 900 bytes below S3's 1,024
CONNECT_SECONDS = 5
READ_SECONDS = 60
ATTEMPTS = 5
WRITER = "visionloop-writer"  # the metadata name of a conditional write's mark
BUCKET_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]"
# How a server says that the condition of a write does not hold (see `_said`).
_TAKEN = frozenset({"409", "412"})
_CHANGED = _TAKEN | {"NoSuchKey"}


class S3Store:
    """An ObjectStore under `prefix` of `bucket`. Opening it sends nothing."""

    def __init__(self, bucket: str, prefix: str = "", account: S3Account | None = None) -> None:
        if not re.fullmatch(BUCKET_PATTERN, bucket):
            raise ConfigurationError(f"{bucket!r} is not the name of a bucket", field="store")
        self._bucket = bucket
        self._prefix = _checked_prefix(prefix)
        with translating(self.url, bucket=bucket, endpoint=""):
            # A session of its own: the default one is shared and not safe between threads.
            self._client = boto3.session.Session().client(
                "s3", config=_config(), **(account or S3Account()).client_settings()
            )

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def get(self, key: str) -> StoredObject:
        def read() -> StoredObject:
            answer = self._client.get_object(**self._object(key))
            return StoredObject(key, read_body(answer), answer["ETag"])

        with self._translating(key):
            return retrying(read, when=body_broke)

    def put(self, key: str, data: bytes) -> str:
        with self._translating(key):
            answer = self._client.put_object(**self._object(key), Body=data, ContentMD5=_md5(data))
            return str(answer["ETag"])

    def put_if_absent(self, key: str, data: bytes) -> str:
        return self._put_on_condition(key, data, {"IfNoneMatch": "*"}, _TAKEN, "exists already")

    def compare_and_swap(self, key: str, data: bytes, etag: str | None) -> str:
        if etag is None:
            return self.put_if_absent(key, data)
        return self._put_on_condition(
            key, data, {"IfMatch": etag}, _CHANGED, "changed since it was read"
        )

    def stat(self, key: str) -> ObjectStat:
        with self._translating(key):
            answer = self._client.head_object(**self._object(key))
        return ObjectStat(
            key, answer["ContentLength"], answer["ETag"], answer["LastModified"].astimezone(UTC)
        )

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        for page in self._pages(check_prefix(prefix)):
            for item in page.get("Contents", []):
                if item["Key"].endswith("/"):
                    continue  # a folder mark that some consoles make
                yield ObjectStat(
                    item["Key"].removeprefix(self._prefix),
                    item["Size"],
                    item["ETag"],
                    item["LastModified"].astimezone(UTC),
                )

    def list_folders(self, prefix: str) -> Iterator[str]:
        if prefix and not check_prefix(prefix).endswith("/"):
            raise InvalidInputError(f"prefix {prefix!r} must end in /", field="prefix")
        for page in self._pages(prefix, Delimiter="/"):
            for item in page.get("CommonPrefixes", []):
                yield item["Prefix"].removeprefix(self._prefix + prefix).rstrip("/")

    def download(self, key: str, path: Path, *, sha256: str | None, size: int | None = None) -> str:
        with self._translating(key), _translating_disk(path), written_whole(path, size) as file:
            count, digest = self._fetch(key, file, size)
            check_content(
                f"{self.url}/{key}",
                size=count,
                sha256=digest,
                expected_size=size,
                expected_sha256=sha256,
            )
        return digest

    def upload(self, path: Path, key: str) -> str:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            raise NotFoundError(f"{path} is not there") from None
        with file, self._translating(key):
            size = os.fstat(file.fileno()).st_size
            if size > PARALLEL_BYTES:
                return self._upload_parts(file, size, self._object(key))
            data = file.read()
        return self.put(key, data)

    def delete(self, key: str) -> None:
        with self._translating(key):
            self._client.delete_object(**self._object(key))

    def probe(self, folder: str = "") -> None:
        probe_conditional_writes(self, folder)

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _translating(self, key: str) -> AbstractContextManager[None]:
        return translating(
            f"{self.url}/{key}", bucket=self._bucket, endpoint=self._client.meta.endpoint_url
        )

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix, **options
        )
        with self._translating(prefix):
            yield from pages

    def _put_on_condition(
        self,
        key: str,
        data: bytes,
        condition: dict[str, str],
        lost: frozenset[str],
        conflict: str,
    ) -> str:
        """`lost` are the answers which say that the condition does not hold, as `conflict`."""
        writer = uuid.uuid4().hex

        def write() -> str:
            try:
                answer = self._client.put_object(
                    **self._object(key),
                    Body=data,
                    ContentMD5=_md5(data),
                    Metadata={WRITER: writer},
                    **condition,
                )
                return str(answer["ETag"])
            except ClientError as error:
                if _said(error) not in lost:
                    raise
                written = self._etag_if_written(self._object(key), writer)
                if written is None:
                    raise
                return written

        with self._translating(key):
            try:
                # 409: another write of the key was under way, and it may yet fail.
                return retrying(write, when=_collided)
            except ClientError as error:
                if _said(error) in lost:
                    raise ConflictError(f"{self.url}/{key} {conflict}") from None
                raise

    def _etag_if_written(self, name: dict[str, str], writer: str) -> str | None:
        """The object's etag, if it has this writer's mark."""
        try:
            answer = self._client.head_object(**name)
        except ClientError as error:
            if error_status(error) == 404:
                return None
            raise
        return str(answer["ETag"]) if answer["Metadata"].get(WRITER) == writer else None

    def _fetch(self, key: str, file: BinaryIO, expected_size: int | None) -> tuple[int, str]:
        """Writes the object to `file`; returns its size in bytes and its sha256."""

        def fetch() -> tuple[int, str]:
            answer = self._client.get_object(**self._object(key))
            size = int(answer["ContentLength"])
            if expected_size is not None and size != expected_size:
                raise CorruptError(
                    f"{self.url}/{key} has {size} bytes, expected {expected_size}: torn or altered"
                )
            if size > PARALLEL_BYTES:
                answer["Body"].close()
                return size, self._fetch_parts(key, file, size, answer["ETag"])
            data = read_body(answer)
            file.write(data)
            return len(data), hashlib.sha256(data).hexdigest()

        return retrying(fetch, when=body_broke)

    def _fetch_parts(self, key: str, file: BinaryIO, size: int, etag: str) -> str:
        """Ranges of one and the same object (If-Match), each to its place; returns the sha256."""

        def fetch(start: int) -> tuple[int, int]:
            end = min(start + PART_BYTES, size)

            def read() -> bytes:
                answer = self._client.get_object(
                    **self._object(key), Range=f"bytes={start}-{end - 1}", IfMatch=etag
                )
                return read_body(answer)

            data = retrying(read, when=body_broke)
            os.pwrite(file.fileno(), data, start)
            return start, len(data)

        digest = hashlib.sha256()
        with Transfers() as transfers:
            # In order, so that the digest follows the download; parts wait on disk, not in memory.
            for start, length in transfers.map(fetch, range(0, size, PART_BYTES)):
                digest.update(os.pread(file.fileno(), length, start))
        return digest.hexdigest()

    def _upload_parts(self, file: BinaryIO, size: int, name: dict[str, str]) -> str:
        part_bytes = max(PART_BYTES, -(-size // MAX_PARTS))
        writer = uuid.uuid4().hex
        begun = self._client.create_multipart_upload(**name, Metadata={WRITER: writer})
        upload = {**name, "UploadId": begun["UploadId"]}

        def send(number: int) -> dict[str, Any]:
            data = os.pread(file.fileno(), part_bytes, (number - 1) * part_bytes)
            answer = self._client.upload_part(
                **upload, PartNumber=number, Body=data, ContentMD5=_md5(data)
            )
            return {"PartNumber": number, "ETag": answer["ETag"]}

        try:
            sent = in_parallel(send, range(1, -(-size // part_bytes) + 1))
            return self._complete(name, upload, sent, writer)
        except BaseException:
            with suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**upload)
            raise

    def _complete(
        self,
        name: dict[str, str],
        upload: dict[str, str],
        sent: Sequence[dict[str, Any]],
        writer: str,
    ) -> str:
        try:
            answer = self._client.complete_multipart_upload(
                **upload, MultipartUpload={"Parts": sent}
            )
        except ClientError as error:
            if error_code(error) != "NoSuchUpload":
                raise
            # Where an answer was lost and botocore asked again, it is no more because it is done.
            written = self._etag_if_written(name, writer)
            if written is None:
                raise
            return written
        return str(answer["ETag"])


def _config() -> Config:
    attempts = {} if "AWS_MAX_ATTEMPTS" in os.environ else {"total_max_attempts": ATTEMPTS}
    return Config(
        retries={"mode": "standard", **attempts},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=THREADS * THREADS,  # files at a time, each in parts at a time
        tcp_keepalive=True,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _checked_prefix(prefix: str) -> str:
    if not prefix:
        return ""
    try:
        check_key(prefix)
    except InvalidInputError as error:
        raise ConfigurationError(f"the store's prefix is wrong: {error}", field="store") from None
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        raise ConfigurationError(
            f"the store's prefix is longer than {MAX_PREFIX_BYTES} bytes", field="store"
        )
    return f"{prefix}/"


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _said(error: ClientError) -> str:
    """The status of an answer; of a 404 the code, because not only a store says 404."""
    status = error_status(error)
    return error_code(error) if status == 404 else str(status)


def _collided(error: BaseException) -> bool:
    return isinstance(error, ClientError) and error_status(error) == 409


@contextmanager
def _translating_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"cannot write {path}: {error.strerror or error}; check the disk and its rights"
        ) from error
