"""The sample application as a process."""

import subprocess
import sys
from pathlib import Path

from tests.servers import free_port
from tests.service.processes import Web
from tests.service.site import ROOT, environment


def start(log: Path, **settings: str) -> Web:
    """Start ``python -m web``."""
    port = int(settings.setdefault("PORT", str(free_port())))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "web"], cwd=ROOT, env=environment(**settings), stdout=out, stderr=out
        )
    return Web(process, port, log)
