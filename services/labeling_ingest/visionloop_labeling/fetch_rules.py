"""What may be fetched of the URLs that outsiders name: addresses, ports, sizes, times."""

import ipaddress
from dataclasses import dataclass
from typing import Final, TypeAlias

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

PORTS: Final = {"http": 80, "https": 443}
# Neither is public, whatever `ipaddress` says: site-local IPv6 of old, and what Azure answers its
# own machines at.
_WITHIN: Final = tuple(map(ipaddress.ip_network, ("fec0::/10", "168.63.129.16")))
# IPv6 ranges that carry an IPv4 address, which is where a gateway would go: (network, shift).
_CARRIERS: Final = (
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4
    (ipaddress.IPv6Network("::/96"), 0),  # IPv4-compatible
)


@dataclass(frozen=True, slots=True)
class FetchRules:
    """What may be fetched. `networks` are not public ones that an operator allows all the same."""

    max_bytes: int = 20 * 2**20
    seconds: float = 30.0  # for one URL with its redirects
    redirects: int = 3
    per_host: int = 4  # fetches at a time
    ports: frozenset[int] = frozenset(PORTS.values())
    networks: tuple[IpNetwork, ...] = ()

    def allows(self, address: IpAddress) -> bool:
        """Whether an address may be connected to."""
        if any(address in network for network in self.networks):
            return True
        inner = _inner(address)
        if inner is not None:
            return self.allows(inner)
        if any(address in network for network in _WITHIN):
            return False
        return address.is_global and not (address.is_multicast or address.is_reserved)


def _inner(address: IpAddress) -> ipaddress.IPv4Address | None:
    """The IPv4 address within an IPv6 one."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    for network, shift in _CARRIERS:
        if address in network:
            return ipaddress.IPv4Address((int(address) >> shift) & 0xFFFF_FFFF)
    return None
