"""Keys and URLs: what is refused, and that nothing gets out of a store's root."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from visionloop.errors import ConfigurationError, InvalidInputError, VisionloopError
from visionloop.objectstore import open_existing_store, open_store
from visionloop.objectstore.keys import MAX_KEY_BYTES, check_key, check_prefix

names = st.sampled_from(
    ["a", "b.c", ".", "..", "", "~", "%2e%2e", "...", "é", "a b", ".visionloop"]
)
keys = st.one_of(st.text(max_size=40), st.lists(names, max_size=5).map("/".join))
PLAIN = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("key", ["a", "a/b", "...", "a..b", "é", "~", "a" * 255, "x/" * 449 + "ab"])
def test_good_keys(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "is empty"),
        ("/a", "is absolute"),
        ("a/", "holds the name ''"),
        ("a//b", "holds the name ''"),
        (".", "holds the name '.'"),
        ("a/../b", "holds the name '..'"),
        ("a\\b", "backslash"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("a\x85b", "control character"),
        ("\ud800", "not valid Unicode"),
        ("x/" * 450 + "a", "has 901 bytes, the limit is 900"),
        ("a/" + "é" * 128, "longer than 255 bytes"),
        (".visionloop/locks/00", "reserved"),
        ("models/.visionloop/x", "reserved"),
    ],
)
def test_bad_keys(key: str, why: str) -> None:
    with pytest.raises(InvalidInputError, match=why) as caught:
        check_key(key)
    assert caught.value.field == "key"
    assert "\0" not in str(caught.value)
    assert "\n" not in str(caught.value)


@PLAIN
@given(keys)
def test_a_key_is_good_or_refused(key: str) -> None:
    try:
        check_key(key)
    except InvalidInputError:
        return
    assert 0 < len(key.encode()) <= MAX_KEY_BYTES
    assert not Path(key).is_absolute()
    assert ".." not in key.split("/")
    assert check_prefix(key) == key
    assert check_prefix(f"{key}/") == f"{key}/"


@PLAIN
@given(keys)
@example("../outside")
@example("a/../../outside")
@example("/etc/passwd")
def test_no_key_leaves_the_folder_of_the_store(tmp_path: Path, key: str) -> None:
    root = tmp_path / "in" / "store"
    store = open_store(f"file://{root}")
    try:
        store.put(key, b"1")
    except InvalidInputError:
        pass
    else:
        assert store.get(key).data == b"1"
        assert [stat.key for stat in store.list()] == [key]
        store.delete(key)
    assert [path.name for path in tmp_path.rglob("*") if not path.is_relative_to(root)] == ["in"]


@PLAIN
@given(keys)
def test_any_prefix_lists_or_is_refused(tmp_path: Path, prefix: str) -> None:
    store = open_store(f"file://{tmp_path}/store")
    store.put("a/b.c/é", b"1")
    try:
        found = [stat.key for stat in store.list(prefix)]
    except InvalidInputError:
        return
    assert found == (["a/b.c/é"] if "a/b.c/é".startswith(prefix) else [])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "is not a store"),
        ("/data", "is a path; write file:///data"),
        ("data", "is a path; write file:///"),
        ("/data/a b#1", "is a path; write file:///data/a%20b%231"),
        ("file://data", "three slashes"),
        ("file:data", "three slashes"),
        ("http://bucket/x", "write file:///folder or s3://bucket/prefix"),
        ("S4://x", "is not a store"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3://b", "not the name of a bucket"),
        ("s3://bucket:80/x", "not the name of a bucket"),
        ("s3://bucket/a/../b", "prefix"),
        ("s3://bucket/" + "a" * 121, "prefix is longer than 120 bytes"),
        ("s3://bucket/x?endpoint=y", "query"),
        ("file:///tmp/x#y", "fragment.* write . as %3F, # as %23"),
        ("file:///a%00b", "NUL"),
        ("s3://[bucket", "is not a URL"),
    ],
)
def test_urls_that_are_no_store(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        open_store(url)
    assert (caught.value.field, caught.value.exit_code) == ("store", 64)


@pytest.mark.parametrize("mark", ["?", "#"])
def test_a_mark_in_a_url_is_not_taken_for_another_folder(tmp_path: Path, mark: str) -> None:
    """The advice was to make the folder that the rest of the URL names."""
    (tmp_path / f"a{mark}b").mkdir()
    with pytest.raises(ConfigurationError, match="as %3F, # as %23"):
        open_existing_store(f"file://{tmp_path}/a{mark}b")
    assert open_existing_store((tmp_path / f"a{mark}b").as_uri()).url.endswith("b")


def test_credentials_in_a_url_are_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="AWS_SECRET_ACCESS_KEY") as caught:
        open_store("s3://me:hunter2@bucket/x")
    assert "hunter2" not in str(caught.value)


def test_a_url_is_given_back(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/with%20space")
    assert store.url == f"file://{tmp_path}/with%20space"
    assert (tmp_path / "with space").is_dir()
    assert open_store("s3://bucket/some/prefix/").url == "s3://bucket/some/prefix"
    assert open_store("s3://bucket").url == "s3://bucket"


@PLAIN
@example("~0")  # a home that is nobody's
@given(st.text(max_size=30) | st.text(max_size=10).map("s3://{}".format))
def test_any_text_is_a_store_or_one_of_our_errors(text: str) -> None:
    if text.startswith("file:"):
        return
    try:
        open_store(text)
    except VisionloopError:
        return
    assert text.lower().startswith("s3://")
