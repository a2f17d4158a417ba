"""Whether a page of another site sends a request, through somebody's browser."""

from collections.abc import Mapping

from visionloop.flags import is_loopback


def foreign_page(headers: Mapping[str, str], *, loopback: bool = False) -> str | None:
    """Whose page it is, for people; None for our own, and for programs, which do not say.

    `headers` have lower-case names, or tell none apart by case. Any page may post to a loopback
    address, and what it sent would count as a person's. Where a browser says itself what it takes
    for the same site that decides, for a proxy may have changed Host.

    `loopback`: only this machine is served, and whoever asks there may. A page that points its own
    name at it is of the same site to the browser (DNS rebinding), unless TLS proves the name.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        foreign = site not in ("none", "same-origin")
    else:  # an old browser, or an address that is not trustworthy to it
        foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
    if loopback and origin is not None and origin.startswith("http://"):
        foreign = foreign or not is_this_machine(origin.removeprefix("http://"))
    return ascii((origin or "another site")[:100]) if foreign else None


def is_this_machine(authority: str) -> bool:
    """Whether a Host header, or what an Origin ends with, names this machine: [::1]:8080."""
    name, _, port = authority.rpartition(":")
    return is_loopback(name if port.isdecimal() else authority)
