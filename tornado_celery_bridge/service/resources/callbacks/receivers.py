"""
Who may be called back: the guard against requests that a client has us make for it (SSRF, OWASP).

A URL is looked at twice: when the job is submitted, for what can be seen to be wrong without asking the network, and
whenever it is called, when the addresses that its host has are checked and the connection goes to one of these: what
a name stands for a moment later makes no difference.
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

__all__ = ("CheckedResolver", "ForbiddenAddress", "Receivers")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.ASCII)
#: What RFC 3986 lets a URL have; no blank, backslash or control character, which parsers read in different ways.
_URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+", re.ASCII)
#: IPv6 addresses that are given out (IANA), and those that stand for an IPv4 address behind a NAT64 (RFC 6052).
_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
#: Names looked up at once. Threads of their own: a name server that keeps silent holds up nothing but callbacks.
LOOKUPS = 16


class ForbiddenAddress(OSError):
    """A host has an address that may not be called."""


class Receivers:
    """
    Who may be called back: every global address by HTTPS, and whatever the operator allows.

    Args:
        allow:
            Networks (``10.1.0.0/16``), addresses and host names, separated by commas. What is in a network need not
            be global, nor what a host resolves to; and HTTP will do for hosts and for addresses in a URL.

    Raises:
        SettingsError: One of them is none of these.
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
        """Return what can be seen to be wrong with a URL without asking the network; None if nothing is."""
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
        """Return whether *host* may be called at *address*, which is one that it has."""
        found = ipaddress.ip_address(address)
        return host.lower() in self._names or self._is_in_networks(found) or _is_global(found)

    def _is_in_networks(self, address: _Address) -> bool:
        # An IPv4 address that is written as an IPv6 one is the former to the kernel.
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._networks)


def _literal(host: str) -> _Address | None:
    """Return the address that *host* is, as a C library reads one: 127.1, 0x7f.1 and 2130706433 are such, too."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _is_global(address: _Address) -> bool:
    """Return whether an address, or the IPv4 address that it stands for, is a single host's on the internet."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    if address.ipv4_mapped is not None:
        return _is_global(address.ipv4_mapped)
    if address in _NAT64:
        return _is_global(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour is not None:
        return _is_global(address.sixtofour)
    return address in _UNICAST and address.is_global


class CheckedResolver(Resolver):
    """
    Resolves hosts to addresses that may be called, all of them, or raises :class:`ForbiddenAddress`.

    Whoever connects uses what this returned and looks up nothing again.
    """

    def initialize(self, receivers: Receivers) -> None:
        self._receivers = receivers
        self._executor = ThreadPoolExecutor(LOOKUPS, "callback-resolver")

    def close(self) -> None:
        """Take no more; a lookup under way ends by itself."""
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
