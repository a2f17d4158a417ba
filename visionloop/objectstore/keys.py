"""Which keys a store takes: relative, slash-separated, plain names that any file system can hold.

The rules are those of the stricter store (the file store), so that data moves between the two.
The length limit leaves room for a prefix below S3's 1,024 bytes.
"""

from visionloop.errors import InvalidInputError

MAX_KEY_BYTES = 900
MAX_NAME_BYTES = 255
RESERVED_NAME = ".visionloop"  # the file store keeps its locks and unfinished files there


def check_key(key: str) -> str:
    """Returns `key`, or raises InvalidInputError that says what is wrong with it."""
    for name in _checked_text(key).split("/"):
        _check_name(name, key)
    return key


def check_prefix(prefix: str) -> str:
    """As `check_key` for the start of a key: may be empty, and may end inside a name or in `/`."""
    if prefix:
        *folders, _start_of_name = _checked_text(prefix).split("/")
        for name in folders:
            _check_name(name, prefix)
        if _start_of_name in (".", ".."):
            raise _refused(prefix, f"holds the name {_start_of_name!r}")
    return prefix


def _checked_text(key: str) -> str:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise _refused(key, "is not valid Unicode") from None
    if not key:
        raise _refused(key, "is empty")
    if size > MAX_KEY_BYTES:
        raise _refused(key, f"has {size} bytes, the limit is {MAX_KEY_BYTES}")
    if key.startswith("/"):
        raise _refused(key, "is absolute; keys are relative to the store's root")
    if "\\" in key:
        raise _refused(key, "holds a backslash; folders are separated by /")
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in key):
        raise _refused(key, "holds a control character")
    return key


def _check_name(name: str, key: str) -> None:
    if name in ("", ".", ".."):
        raise _refused(key, f"holds the name {name!r} between slashes")
    if name == RESERVED_NAME:
        raise _refused(key, f"holds the reserved name {RESERVED_NAME!r}")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise _refused(key, f"holds a name longer than {MAX_NAME_BYTES} bytes")


def _refused(key: str, why: str) -> InvalidInputError:
    shown = key if len(key) <= 80 else f"{key[:77]}..."
    return InvalidInputError(f"object key {shown!r} {why}", field="key")
