"""
Ends what the supervisor started when the supervisor cannot: ``kill -9``, or the kernel short of memory.

Runs as a process of its own and reads the process groups to end from its standard input, ``+123`` or ``-123`` a line.
The input ends when the supervisor does, however that came about. Unlike ``PR_SET_PDEATHSIG`` this reaches the children
of children too, needs no code between fork and exec, and is the same on macOS. It holds the supervisor's lock on
DATA_DIR as well, so that the next `make up` waits outside until the last of the old processes is gone.
"""

import os
import signal
import sys
import time


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it goes when the supervisor goes, and not before
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    deadline = time.monotonic() + 2.0  # a zombie that nobody reaps counts as alive: do not wait for it for ever
    while groups and time.monotonic() < deadline:
        for group in list(groups):
            try:
                os.killpg(group, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # macOS says the second of a group of zombies
                groups.discard(group)
        time.sleep(0.02)


if __name__ == "__main__":
    main()
