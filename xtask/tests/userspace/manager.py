"""Stands in for systemd: keeps the descriptors that its service hands it, and passes them to the next start.

usage: manager.py SOCKET ARGUMENTS
ARGUMENTS is a file with one argument of the service's command a line, read at each start.
SIGUSR1: the service is stopped by SIGTERM and started. SIGUSR2: killed and started.
"""

import fcntl
import os
import select
import signal
import socket
import sys

path, arguments = sys.argv[1:]
server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
server.bind(path)
server.setblocking(False)
store = []
wanted = []
for number in (signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, _: wanted.append(number))


def say(*words):
    print("manager:", *words, flush=True)


def start():
    pid = os.fork()
    if pid:
        say("started", pid, "with", len(store))
        return pid
    kept = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 500) for _, descriptor in store]
    for at, descriptor in enumerate(kept):
        os.dup2(descriptor, 3 + at)
    os.closerange(3 + len(kept), 1000)
    environment = dict(os.environ, NOTIFY_SOCKET=path, LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(kept)))
    environment["LISTEN_FDNAMES"] = ":".join(name for name, _ in store)
    command = open(arguments).read().splitlines()
    os.execvpe(command[0], command, environment)


def hear():
    global store
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(server, 65536, 64)
        except BlockingIOError:
            return
        fields = dict(line.split("=", 1) for line in message.decode().splitlines())
        name = fields.get("FDNAME", "stored")
        if fields.get("FDSTORE") == "1":
            store += [(name, descriptor) for descriptor in descriptors]
            say("stored", name, len(descriptors))
        elif fields.get("FDSTOREREMOVE") == "1":
            gone = [descriptor for other, descriptor in store if other == name]
            store = [entry for entry in store if entry[0] != name]
            for descriptor in gone:
                os.close(descriptor)
            say("removed", name, len(gone))


pid = start()
while True:
    select.select([server], [], [], 0.01)
    hear()
    if wanted:
        os.kill(pid, signal.SIGTERM if wanted.pop(0) == signal.SIGUSR1 else signal.SIGKILL)
        os.waitpid(pid, 0)
        hear()
        pid = start()
