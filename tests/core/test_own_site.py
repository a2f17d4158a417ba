"""Whose page sends a request: what browsers say decides, programs say nothing."""

import pytest

from visionloop.own_site import foreign_page


@pytest.mark.parametrize(
    ("headers", "page"),
    [
        ({}, None),  # a program
        ({"sec-fetch-site": "none"}, None),  # typed by the person
        ({"sec-fetch-site": "same-origin", "origin": "https://own.example"}, None),
        ({"sec-fetch-site": "same-origin", "origin": "https://a", "host": "behind:80"}, None),
        ({"sec-fetch-site": "same-site", "origin": "https://b.example"}, "'https://b.example'"),
        ({"sec-fetch-site": "cross-site"}, "'another site'"),
        ({"origin": "http://127.0.0.1:8080", "host": "127.0.0.1:8080"}, None),
        ({"origin": "http://evil.example", "host": "127.0.0.1:8080"}, "'http://evil.example'"),
        ({"origin": "null", "host": "127.0.0.1:8080"}, "'null'"),
        ({"origin": "http://\u0000é", "host": "x"}, "'http://\\x00\\xe9'"),
    ],
)
def test_whose_page_it_is(headers: dict[str, str], page: str | None) -> None:
    assert foreign_page(headers) == page


@pytest.mark.parametrize(
    ("origin", "page"),
    [
        ("http://localhost:8002", None),
        ("http://127.0.0.1:8002", None),
        ("http://[::1]:8002", None),
        ("http://evil.example:8002", "'http://evil.example:8002'"),
        ("http://localhost.evil.example", "'http://localhost.evil.example'"),
        ("https://app.example", None),  # a proxy that speaks TLS: nobody else has its name
        (None, None),  # a program, through a proxy with a name of its own
    ],
)
def test_on_loopback_a_page_may_not_give_its_own_name_to_this_machine(
    origin: str | None, page: str | None
) -> None:
    host = "app.example" if origin is None else origin.partition("://")[2]
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    assert foreign_page(headers, loopback=True) == page
    assert foreign_page(headers) is None  # where TLS or tokens keep strangers out
