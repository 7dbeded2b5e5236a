"""
Ends the supervisor's processes if the supervisor cannot do so, because it was killed.

The guardian is a process of its own. It reads the process groups to end from its standard input, a line ``+123`` or
``-123`` for each. The input ends when the supervisor ends, for whatever reason. Unlike ``PR_SET_PDEATHSIG``, this also
reaches children of children, needs no code between fork and exec, and works on macOS. The guardian also holds the
supervisor's lock on DATA_DIR, so that no other supervisor starts before the last of the old processes is gone.
"""

import os
import signal
import sys
import time


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the supervisor ends, and not before
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    deadline = time.monotonic() + 2.0  # a zombie that nobody reaps counts as alive, so this wait has an end
    while groups and time.monotonic() < deadline:
        for group in list(groups):
            try:
                os.killpg(group, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # macOS raises the second for a group of zombies
                groups.discard(group)
        time.sleep(0.02)


if __name__ == "__main__":
    main()
