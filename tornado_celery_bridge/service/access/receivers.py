"""
Who may be called back. This guards against clients that make us send requests for them (SSRF, OWASP).

A URL is checked twice. When the job is submitted, it is checked without using the network. At each call, the addresses
of its host are checked, and the connection goes to one of exactly these addresses, so it does not matter if the name
has other addresses a moment later.
"""

import asyncio
import functools
import ipaddress
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import SplitResult, urlsplit

from tornado.netutil import Resolver

from tornado_celery_bridge.base.settings import SettingsError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.ASCII)
#: The characters that RFC 3986 allows in a URL. Blanks, backslashes and control characters are not among them, because
#: parsers read them in different ways.
_URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+", re.ASCII)
#: The IPv6 addresses that IANA gives out, and those that stand for an IPv4 address behind a NAT64 (RFC 6052).
_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
#: Addresses that Python calls global and that belong to no host on the internet: those of protocols, relays and AS 112
#: (IANA's special-purpose registries), which lead wherever a network has them lead; and the one by which Azure's
#: machines reach their host, which gives out secrets.
_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("192.0.0.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24"),
        *("168.63.129.16/32", "2001::/23", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),
    )
)
#: Names that are looked up at once, in threads of their own, so that a silent name server holds up only callbacks.
LOOKUPS = 16


class ForbiddenAddress(OSError):
    """A host has an address that must not be called."""


class Receivers:
    """
    Knows who may be called back: every global address by HTTPS, and what the operator allows.

    Args:
        allow:
            Networks (``10.1.0.0/16``), addresses and host names, separated by commas. Addresses in these networks,
            and addresses of these hosts, need not be global. These hosts and addresses may also use HTTP in a URL.

    Raises:
        SettingsError: An item is not a network, an address or a host name.
    """

    def __init__(self, allow: str = "") -> None:
        self._networks: list[_Network] = []
        self._names: set[str] = set()
        for given in filter(None, (part.strip().lower() for part in allow.split(","))):
            try:
                self._networks.append(ipaddress.ip_network(given))
            except ValueError:
                if not _NAME.fullmatch(given) or _literal(given):
                    wanted = "a network, an address or a host name, as in 10.1.0.0/16,hooks.internal"
                    raise SettingsError(f"CALLBACK_ALLOW: {given!r} should be {wanted}") from None
                self._names.add(given)

    def fault_of(self, url: str) -> str | None:
        """Return what is wrong with a URL, as far as it can be seen without the network; None if nothing is wrong."""
        try:
            parts = urlsplit(url) if _URL.fullmatch(url) else None
            host = parts and parts.hostname
            is_whole = bool(parts and host and parts.port != 0 and not parts.netloc.endswith(":"))
        except ValueError:
            is_whole = False
        if not is_whole or parts is None or not host:
            return "This should be a URL with a host."
        return self._fault_of_parts(parts, host)

    def _fault_of_parts(self, parts: SplitResult, host: str) -> str | None:
        if "@" in parts.netloc:
            return "This should have no user and no password."
        address = _literal(host)
        if address is None and not _NAME.fullmatch(host):
            return "This should have a host name, or an address."
        is_allowed = host in self._names or (address is not None and self._is_in_networks(address))
        if parts.scheme != "https" and not (parts.scheme == "http" and is_allowed):
            return "This should be https."
        is_local = host == "localhost" or host.endswith(".localhost")
        if not is_allowed and (is_local or (address is not None and not _is_global(address))):
            return "This host may not be called."
        return None

    def may_reach(self, host: str, address: str) -> bool:
        """Return whether *host* may be called at *address*, which is one of its addresses."""
        found = ipaddress.ip_address(address)
        return host.lower() in self._names or self._is_in_networks(found) or _is_global(found)

    def _is_in_networks(self, address: _Address) -> bool:
        # To the kernel, an IPv4 address that is written as an IPv6 address is an IPv4 address.
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._networks)


def _literal(host: str) -> _Address | None:
    """Return *host* as an address, read as a C library does: 127.1, 0x7f.1 and 2130706433 are addresses too."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _is_global(address: _Address) -> bool:
    """Return whether an address, or the IPv4 address that it stands for, belongs to one host on the internet."""
    if any(address in network for network in _SPECIAL):
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    if address.ipv4_mapped is not None:
        return _is_global(address.ipv4_mapped)
    if address in _NAT64:
        return _is_global(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _UNICAST and address.is_global


class CheckedResolver(Resolver):
    """
    Resolves a host to its addresses. If one of them must not be called, it raises :class:`ForbiddenAddress`.

    The connection uses these addresses, and nothing is looked up again.
    """

    def initialize(self, receivers: Receivers) -> None:
        self._receivers = receivers
        self._executor = ThreadPoolExecutor(LOOKUPS, "callback-resolver")

    def close(self) -> None:
        """Take no more lookups. A lookup under way ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        """Return families and socket addresses."""
        look_up = functools.partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._executor, look_up)
        if not all(self._receivers.may_reach(host, str(address[0])) for *_, address in found):
            raise ForbiddenAddress(f"{host} has an address that may not be called")
        return [(int(kind), address) for kind, *_, address in found]
