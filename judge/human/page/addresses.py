"""From where a request comes, behind trusted proxies too."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from fastapi import Request

from judge.human.page.shell import Page


def client_address(page: Page, request: Request) -> str:
    """Who sent the request: behind trusted proxies the last address that is not one of them."""
    peer = request.client.host if request.client else ""
    proxies = [ip_network(network) for network in page.settings.trusted_proxies]
    for hop in reversed(request.headers.get("x-forwarded-for", "").split(",")):
        if not is_in(peer, proxies) or not hop.strip():
            break
        peer = hop.strip()[:64]
    return peer


def is_in(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Whether an address is one of these networks'; what is no address is in none."""
    try:
        known = ip_address(address)
    except ValueError:
        return False
    return any(known in network for network in networks)
