"""What an operator allows imports to reach, from the words of flags."""

import ipaddress
from collections.abc import Sequence

from visionloop.errors import ConfigurationError, VisionloopError
from visionloop.objectstore import open_store
from visionloop_labeling.fetch_rules import FetchRules


def fetch_rules(networks: Sequence[str], ports: Sequence[str], max_bytes: int) -> FetchRules:
    """The rules for URLs. Raises ConfigurationError."""
    try:
        allowed = tuple(ipaddress.ip_network(network) for network in networks)
    except ValueError as error:
        raise ConfigurationError(
            f"--import-networks: {error}; write networks as 10.1.0.0/16", field="import_networks"
        ) from None
    numbers = [int(port) if port.isascii() and port.isdigit() else 0 for port in ports]
    if not all(0 < number < 65536 for number in numbers):
        raise ConfigurationError(
            f"--import-ports: {', '.join(ports)}; ports are 1 to 65535", field="import_ports"
        )
    return FetchRules(max_bytes=max_bytes, ports=frozenset(numbers), networks=allowed)


def check_prefixes(urls: Sequence[str]) -> None:
    """Raises ConfigurationError for a URL that is no prefix of a bucket."""
    for url in urls:
        if not url.startswith("s3://"):
            raise ConfigurationError(
                f"--import-from: {url[:80]!r} is not s3://bucket/prefix", field="import_from"
            )
        try:
            open_store(url)
        except VisionloopError as error:
            raise ConfigurationError(f"--import-from: {error}", field="import_from") from None
