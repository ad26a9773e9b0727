"""Run a command in a terminal of its own, which SIGUSR1 closes: python terminal.py COMMAND...

What a terminal or ssh does that goes away: everything that runs in it gets SIGHUP, and nothing can
be written any more. Ends with the command's code.
"""

import contextlib
import os
import pty
import signal
import sys
import time
from pathlib import Path


def members(session: int) -> list[int]:
    """List the processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if os.getsid(int(entry.name)) == session:
                found.append(int(entry.name))
    return found


def main() -> int:
    """Run it; return its code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    pid, terminal = pty.fork()
    if not pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        os.execvp(sys.argv[1], sys.argv[1:])
    os.set_blocking(terminal, False)
    while not os.waitpid(pid, os.WNOHANG)[0]:
        with contextlib.suppress(OSError):  # there is nothing to read, or it has ended
            os.write(1, os.read(terminal, 65536))
        if signal.sigtimedwait({signal.SIGUSR1}, 0.05):
            break
    else:
        return 1  # it ended too early
    # The kernel tells a shell, the shell its jobs, and so does the kernel once the shell has ended.
    for member in members(pid):
        if member != pid:
            os.kill(member, signal.SIGHUP)
    time.sleep(0.5)
    os.close(terminal)  # which the kernel tells the command
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
