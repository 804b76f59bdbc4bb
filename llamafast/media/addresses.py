"""Which network addresses a fetch may dial: public ones, whatever their spelling."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# Not global, or not only: shared space of carriers, protocol assignments, 6to4 and NAT64 (they hold an IPv4 address).
_REFUSED_V4 = tuple(IPv4Network(text) for text in ("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24"))
_REFUSED_V6 = tuple(IPv6Network(text) for text in ("2002::/16", "64:ff9b::/96", "64:ff9b:1::/48", "::/96", "2001::/32"))


def is_public(address: str) -> bool:
    """Whether an address that a name lookup gave lies in the public internet."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if not found.is_global or found.is_multicast or found.is_reserved or found.is_unspecified:
        return False
    if isinstance(found, IPv4Address):
        return not any(found in network for network in _REFUSED_V4)
    return not any(found in network for network in _REFUSED_V6)
