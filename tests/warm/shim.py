"""The program that stands for a warm process: it hands over what it was given, passes signals on, and ends alike."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)


def main(server: str, cold: str, script: str) -> None:
    """Run `python ARGUMENTS`, or a console script `module:function`, in a fork of the server's."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(server)
    except OSError:
        os.execv(cold, [cold, *sys.argv[1:]])
    files = [int(name) for name in os.listdir("/proc/self/fd")]
    files = [file for file in files if file != connection.fileno() and _is_open(file)]
    order = {
        "program": sys.argv[0],
        "args": sys.argv[1:],
        "script": script,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "files": files,
        "pid": os.getpid(),
        "ignored": [int(n) for n in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_IGN],
        "umask": _umask(),
    }
    for number in _PASSED_ON:
        signal.signal(number, lambda given, frame: connection.send(bytes([given])))
    text = json.dumps(order).encode()
    # a message carries 253 files at the most, the first one the length as well
    socket.send_fds(connection, [len(text).to_bytes(8, "big")], files[:250])
    connection.sendall(text)
    for file in files:
        if file > 2:
            os.close(file)  # a pipe's end that stays open here is never at its end there
    null = os.open(os.devnull, os.O_RDWR)
    for file in (0, 1, 2):
        os.dup2(null, file)
    answer = b""
    while len(answer) < 4 and (more := connection.recv(4 - len(answer))):
        answer += more
    code = int.from_bytes(answer, "big", signed=True) if len(answer) == 4 else -int(signal.SIGKILL)
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _is_open(file: int) -> bool:
    try:
        os.fstat(file)
    except OSError:
        return False
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
