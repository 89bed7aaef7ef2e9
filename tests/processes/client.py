"""A stand-in for `python`: gives its arguments and streams to server.py and ends as the fork there ends.

    python -I -S tests/processes/client.py SOCKET ARGUMENTS

FORK_PID_FILE: where the fork's process id is written, for whoever wants to kill it. The client imports the standard
library only, and little of it: a start takes 20 ms.
"""

import json
import os
import signal
import socket
import sys

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    server = socket.socket(socket.AF_UNIX)
    server.connect(sys.argv[1])
    umask = os.umask(0)
    os.umask(umask)
    env = dict(os.environ)
    pid_file = env.pop("FORK_PID_FILE", None)  # this client's alone, not of clients that its fork starts
    ignored = [int(number) for number in PASSED_ON if signal.getsignal(number) == signal.SIG_IGN]
    order = {"arguments": sys.argv[2:], "env": env, "cwd": os.getcwd(), "umask": umask, "ignored": ignored}
    content = json.dumps(order).encode() + b"\n"
    socket.send_fds(server, [content[:1]], [0, 1, 2])
    server.sendall(content[1:])
    answers = server.makefile()
    pid = int(answers.readline())
    if pid_file is not None:
        with open(pid_file, "w") as file:
            file.write(str(pid))
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    ended = answers.readline()
    if not ended:
        sys.exit("the fork server has gone")
    code = int(ended)
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):  # whose effect cannot be changed
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


main()
