"""
Signatures of callbacks, by the Standard Webhooks specification, 1.0.

The service has one master secret. Each owner's secret is made from it and the owner's name. So an owner's secret cannot
sign in the name of another owner.
"""

import base64
import contextlib
import functools
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from pathlib import Path

from tornado_celery_bridge.base.settings import SettingsError

#: The fewest bytes of a master secret, as the specification says.
LEAST = 24


class Secrets:
    """
    The owners' secrets.

    Args:
        path: The file of the master secret. If it is missing when it is needed, it is made, readable only by its user.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self) -> None:
        """
        Check the file, if it exists. Blocks.

        Raises:
            SettingsError: The file cannot be used.
        """
        if self._path.exists():
            self.of("")

    def of(self, owner: str) -> str:
        """
        Return an owner's secret, ``whsec_…``. Blocks.

        Raises:
            SettingsError: The file cannot be used.
        """
        derived = hmac.digest(self._master, owner.encode(), hashlib.sha256)
        return f"whsec_{base64.b64encode(derived).decode()}"

    @property
    def of_sessions(self) -> str:
        """The secret that signs the cookies of sessions. Blocks, and raises as :meth:`of` does."""
        return hmac.digest(self._master, b"\0sessions", hashlib.sha256).hex()

    @functools.cached_property
    def _master(self) -> bytes:
        try:
            if not self._path.exists():
                _make(self._path)
            mode, secret = self._path.stat().st_mode, self._path.read_bytes().strip()
        except OSError as exc:
            raise SettingsError(f"{self._told} cannot be read, or made: {exc.strerror}") from exc
        if mode & stat.S_IRWXO:
            raise SettingsError(f"{self._told} is open to everybody on this machine: chmod o= {self._path}")
        if len(secret) < LEAST:
            raise SettingsError(
                f"{self._told} should have {LEAST} bytes or more, as openssl rand -base64 32 makes them"
            )
        return secret

    @property
    def _told(self) -> str:
        return f"CALLBACK_SECRET_FILE={self._path}"


def _make(path: Path) -> None:
    """Write a new secret, completely or not at all. If several processes do so at once, one of them succeeds."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as part:  # 0600
        part.write(f"{secrets.token_urlsafe(32)}\n".encode())
        part.flush()
        os.fsync(part.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part.name, path)


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """
    Return the headers that go with *body*.

    Args:
        secret: What :meth:`Secrets.of` returned.
        message_id: The id, which is the same at every attempt.
        timestamp: The time of this attempt, in seconds since 1970.
        body: The body of the request.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }
