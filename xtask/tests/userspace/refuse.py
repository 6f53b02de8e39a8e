"""Runs a program whose kernel lacks something: system calls are refused as seccomp does it.

usage: refuse.py RULE... -- PROGRAM ARGUMENT...
RULE:  CALL=ERRNO             the call is refused
       CALL:LEVEL:NAME=ERRNO  setsockopt of that option is
       CALL:REQUEST:BITS=ERRNO  ioctl with that request is, if its argument has any of these bits
"""

import ctypes
import errno
import os
import platform
import struct
import sys

CALLS = {
    "x86_64": {"setsockopt": 54, "sendmmsg": 307, "recvmmsg": 299, "ioctl": 16},
    "aarch64": {"setsockopt": 208, "sendmmsg": 269, "recvmmsg": 243, "ioctl": 29},
}[platform.machine()]
LOAD, JEQ, JSET, RETURN = 0x20, 0x15, 0x45, 0x06
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER, ALLOW, ERRNO = 38, 22, 2, 0x7FFF0000, 0x00050000


def number(text):
    return int(text, 0)


program = []
split = sys.argv.index("--")
for rule in sys.argv[1:split]:
    what, error = rule.split("=")
    call, *rest = what.split(":")
    tests = [(JEQ, 0, CALLS[call])]
    if rest:
        # Of struct seccomp_data: the low halves of the second and third argument.
        tests += [(JEQ, 24, number(rest[0])), (JSET if call == "ioctl" else JEQ, 32, number(rest[1]))]
    for at, (test, offset, value) in enumerate(tests):
        over = 2 * (len(tests) - at - 1) + 1
        program += [(LOAD, 0, 0, offset), (test, 0, over, value)]
    program.append((RETURN, 0, 0, ERRNO | getattr(errno, error)))
program.append((RETURN, 0, 0, ALLOW))
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
filters = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
for arguments in [(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, FILTER, filters, 0, 0)]:
    if libc.prctl(*arguments) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
os.execvp(sys.argv[split + 1], sys.argv[split + 1 :])
