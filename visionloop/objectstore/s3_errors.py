"""What an S3 server or botocore says, in the suite's errors, with what to do.

Server messages are not passed on where they may hold key ids or signed requests.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    InvalidConfigError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as BotocoreConnectionError

from visionloop.errors import (
    ConfigurationError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    VisionloopError,
)

WRONG_CREDENTIALS = {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidToken",
    "MissingAuthenticationToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
WRONG_SETTINGS = {
    "AuthorizationHeaderMalformed": "check the region (AWS_DEFAULT_REGION)",
    "IllegalLocationConstraintException": "check the region (AWS_DEFAULT_REGION)",
    "PermanentRedirect": "check the region (AWS_DEFAULT_REGION) and AWS_ENDPOINT_URL",
    "InvalidBucketName": "check the bucket's name",
    "RequestTimeTooSkewed": "set this machine's clock",
    "NotImplemented": "the server lacks what the store needs; see the documentation's list",
    "XNotImplemented": "the server lacks what the store needs; see the documentation's list",
}
TRY_LATER = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"}
# The same by number: gateways and stores other than AWS have words of their own beside it.
TRY_LATER_STATUS = {408, 429}


def error_code(error: ClientError) -> str:
    """The server's word for it, as NoSuchKey; a HEAD request has only the number, as 404."""
    return str(error.response.get("Error", {}).get("Code", ""))


def error_status(error: ClientError) -> int:
    """The HTTP status of the answer."""
    metadata: dict[str, Any] = error.response.get("ResponseMetadata", {})
    return int(metadata.get("HTTPStatusCode", 0))


class BrokenBodyError(Exception):
    """The connection broke while a body was read: worth another request, botocore makes none."""


def read_body(answer: dict[str, Any]) -> bytes:
    """The body of a GetObject answer. Raises BrokenBodyError."""
    try:
        data: bytes = answer["Body"].read()
    except (HTTPClientError, IncompleteReadError) as error:
        raise BrokenBodyError(type(error).__name__) from error
    return data


def body_broke(error: BaseException) -> bool:
    """Whether `read_body` failed."""
    return isinstance(error, BrokenBodyError)


@contextmanager
def translating(what: str, *, bucket: str, endpoint: str) -> Iterator[None]:
    """Raises VisionloopError for all that boto3 raises inside the block."""
    try:
        yield
    except ClientError as error:
        raise _answer(error, what, bucket, shown_endpoint(endpoint)) from error
    except BrokenBodyError as error:
        raise UnavailableError(
            f"{what}: the connection to {shown_endpoint(endpoint)} keeps breaking off ({error}); "
            "check the network"
        ) from error
    except BotoCoreError as error:
        raise _no_answer(error, what, shown_endpoint(endpoint)) from error
    except ValueError:  # botocore's word for an endpoint that is no URL
        # Its message repeats the endpoint, in which a password may stand.
        raise ConfigurationError(
            f"{what}: {_endpoint_variable()} or another of the AWS_* variables has no usable "
            "value; an endpoint is a URL, as https://host:9000",
            field="store",
        ) from None


def shown_endpoint(endpoint: str) -> str:
    """An endpoint for messages: without user, password and query."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _endpoint_variable() -> str:
    """The variable that is in force: the one of S3 alone wins, and is what a pod has."""
    own = "AWS_ENDPOINT_URL_S3"
    return own if own in os.environ else "AWS_ENDPOINT_URL"


def _answer(error: ClientError, what: str, bucket: str, endpoint: str) -> VisionloopError:
    code, status = error_code(error), error_status(error)
    if code == "NoSuchBucket":
        return ConfigurationError(
            f"bucket {bucket!r} does not exist at {endpoint}; create it, or check the store's URL "
            f"and {_endpoint_variable()}",
            field="store",
        )
    if code in WRONG_CREDENTIALS or status == 401:
        return UnauthenticatedError(
            f"{endpoint} does not accept the credentials ({code or status}); check "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the pod's role"
        )
    if code in WRONG_SETTINGS:
        return ConfigurationError(
            f"{what}: {endpoint} answered {code}; {WRONG_SETTINGS[code]}", field="store"
        )
    if status == 403:
        return PermissionDeniedError(
            f"{what}: {endpoint} refuses access ({code}); check the credentials and the rights "
            f"they have on bucket {bucket!r}"
        )
    if _is_absence(error):
        return NotFoundError(f"{what} is not there")
    if code == "NoSuchUpload":
        return UnavailableError(
            f"{what}: somebody ended the upload before it was whole, perhaps a lifecycle rule for "
            "incomplete ones; try again"
        )
    if status == 412:  # of a ranged read; the conditional writes know what it means there
        return ConflictError(f"{what} was replaced while it was read; try again")
    if status == 404:
        return UnavailableError(
            f"{what}: {endpoint} answers 404 {code}".rstrip()
            + ", which no S3 server says of an object; check AWS_ENDPOINT_URL, and the proxy or "
            "ingress before the store"
        )
    if status >= 500 or status in TRY_LATER_STATUS or code in TRY_LATER:
        return UnavailableError(f"{what}: {endpoint} keeps answering {status} {code}; try later")
    message = error.response.get("Error", {}).get("Message", "")
    return ConfigurationError(
        f"{what}: {endpoint} answered {status} {code} {message}".rstrip(), field="store"
    )


def _is_absence(error: ClientError) -> bool:
    """Whether a store says that it has no such object.

    A proxy that has lost its way to the store says 404 as well, but not in S3's words. Taken for
    absence, that would empty the whole store at once. An answer to HEAD has no words: there both
    look the same.
    """
    if error.operation_name == "HeadObject":
        return error_status(error) == 404
    return error_status(error) == 404 and error_code(error) == "NoSuchKey"


def _no_answer(error: BotoCoreError, what: str, endpoint: str) -> VisionloopError:
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return UnauthenticatedError(
            "no credentials for the S3 store; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "give the pod a role"
        )
    if isinstance(error, CredentialRetrievalError | TokenRetrievalError):
        return UnauthenticatedError(
            f"the credentials for the S3 store cannot be fetched ({type(error).__name__}); check "
            "the pod's role or the AWS profile"
        )
    if isinstance(error, SSLError):
        return UnavailableError(
            f"{what}: no TLS connection to {endpoint}; check its certificate and AWS_CA_BUNDLE"
        )
    if isinstance(error, HTTPClientError | BotocoreConnectionError):
        return UnavailableError(
            f"{what}: {endpoint} cannot be reached ({type(error).__name__}); check "
            f"{_endpoint_variable()}, the network and whether the server runs"
        )
    if isinstance(error, InvalidConfigError):
        return ConfigurationError(f"the AWS configuration is wrong: {error}", field="store")
    return ConfigurationError(
        f"{what}: {type(error).__name__}: {error}; check the AWS_* variables", field="store"
    )
