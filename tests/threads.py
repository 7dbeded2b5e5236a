"""What threads of this process take."""

import signal
import threading
from pathlib import Path


def takes(thread: threading.Thread, number: signal.Signals) -> bool:
    """Return whether a signal to the process may be taken by *thread*. As Linux has it: see proc(5), SigBlk."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    [blocked] = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk")]
    return not blocked & 1 << (number - 1)
