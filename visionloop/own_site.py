"""Whether a page of another site sends a request, through somebody's browser."""

from collections.abc import Mapping


def foreign_page(headers: Mapping[str, str]) -> str | None:
    """Whose page it is, for people; None for our own, and for programs, which do not say.

    `headers` have lower-case names, or tell none apart by case. Any page may post to a loopback
    address, and what it sent would count as a person's. Where a browser says itself what it takes
    for the same site that decides, for a proxy may have changed Host.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        foreign = site not in ("none", "same-origin")
    else:  # an old browser, or an address that is not trustworthy to it
        foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
    return ascii((origin or "another site")[:100]) if foreign else None
