"""From a URL to a store. boto3 is imported only when an s3:// URL asks for it."""

import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

from visionloop.errors import ConfigurationError, NotFoundError
from visionloop.objectstore.account import S3Account
from visionloop.objectstore.base import ObjectStore
from visionloop.objectstore.file import FileStore


def open_store(url: str, account: S3Account | None = None) -> ObjectStore:
    """Opens `file:///absolute/folder` or `s3://bucket/prefix`. Writes nothing but a missing folder.

    With `account` another S3 server or another key than the AWS_* variables name.

    Raises ConfigurationError for a URL that is neither.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _refused(url, "is not a URL") from None
    if parts.username is not None or parts.password is not None:
        # Not shown: it holds a secret.
        raise ConfigurationError(
            "the store's URL holds credentials; give them in AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY instead",
            field="store",
        )
    if url.startswith("~"):
        raise _refused(url, "is a path; write it in full, file:///home/…")
    if url.startswith(("/", ".")) or (url and not parts.scheme):
        raise _refused(url, f"is a path; write {Path(url).absolute().as_uri()}")
    if parts.query or parts.fragment:
        raise _refused(
            url, "has a query or a fragment, which a store's URL has not; write ? as %3F, # as %23"
        )
    if parts.scheme == "file":
        return _open_file(url, parts.netloc, unquote(parts.path))
    if parts.scheme == "s3":
        return _open_s3(url, parts.netloc, unquote(parts.path), account)
    raise _refused(url, "is not a store; write file:///folder or s3://bucket/prefix")


def open_existing_store(url: str) -> ObjectStore:
    """As `open_store`, for readers of what others wrote: a missing folder is a mistyped path.

    Raises NotFoundError, too.
    """
    if url.startswith(("file:///", "file://localhost/")):
        parts = urlsplit(url)
        folder = Path(unquote(parts.path))
        if not (parts.query or parts.fragment or folder.is_dir()):
            quoted = shlex.quote(str(folder))
            raise NotFoundError(
                f"there is no store at {folder}; name one by --store or VISIONLOOP_STORE "
                f"(file:///folder or s3://bucket/prefix), or make the folder: mkdir -p {quoted}"
            )
    return open_store(url)


def _open_file(url: str, host: str, path: str) -> ObjectStore:
    if host not in ("", "localhost") or not path.startswith("/"):
        raise _refused(url, "is not absolute; write file:///absolute/folder (three slashes)")
    if "\0" in path:
        raise _refused(url, "holds a NUL character")
    return FileStore(Path(path))


def _open_s3(url: str, bucket: str, path: str, account: S3Account | None) -> ObjectStore:
    if not bucket:
        raise _refused(url, "names no bucket; write s3://bucket/prefix")
    from visionloop.objectstore.s3 import S3Store

    return S3Store(bucket, path.strip("/"), account)


def _refused(url: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"store {url!r} {why}", field="store")
