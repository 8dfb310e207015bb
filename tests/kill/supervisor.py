"""A forked child whose writing system calls are handed to its parent, which counts them and kills the child before the n-th.

Linux hands them over (seccomp, "user notification"), so nothing escapes: libraries in Rust or C, stdio, threads and grandchildren.
A write to memory that maps a file isn't a system call. It stays where it is when the process is killed.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import select
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

# Numbers of x86_64: which argument is a path, and which one is the folder that the path is relative to (None: the current one).
_PATHS: dict[int, tuple[str, tuple[tuple[int | None, int], ...]]] = {
    2: ("open", ((None, 0),)),
    76: ("truncate", ((None, 0),)),
    82: ("rename", ((None, 0), (None, 1))),
    83: ("mkdir", ((None, 0),)),
    84: ("rmdir", ((None, 0),)),
    85: ("creat", ((None, 0),)),
    86: ("link", ((None, 0), (None, 1))),
    87: ("unlink", ((None, 0),)),
    88: ("symlink", ((None, 1),)),
    90: ("chmod", ((None, 0),)),
    257: ("openat", ((0, 1),)),
    258: ("mkdirat", ((0, 1),)),
    263: ("unlinkat", ((0, 1),)),
    264: ("renameat", ((0, 1), (2, 3))),
    265: ("linkat", ((0, 1), (2, 3))),
    266: ("symlinkat", ((1, 2),)),
    268: ("fchmodat", ((0, 1),)),
    316: ("renameat2", ((0, 1), (2, 3))),
}
# Which argument is the open file that is written.
_FILES = {
    1: ("write", 0),
    18: ("pwrite", 0),
    20: ("writev", 0),
    40: ("sendfile", 0),
    74: ("fsync", 0),
    75: ("fdatasync", 0),
    77: ("ftruncate", 0),
    91: ("fchmod", 0),
    285: ("fallocate", 0),
    296: ("pwritev", 0),
    326: ("copy_file_range", 2),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
MOST_SECONDS = 300
"""A child that makes no call for so long hangs, and is killed."""
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000


class Outcome(NamedTuple):
    code: int | None
    """The child's exit code; `None` if it was killed."""

    calls: list[str]
    """Its writing calls below the folder, such as "write out.tsv"; the last one wasn't executed if it was killed."""


def is_supported() -> bool:
    """Whether this machine can supervise: Linux on x86_64 that lets a process filter its system calls."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    try:
        return supervised(lambda: 0, Path("/nowhere"), None).code == 0
    except (OSError, EOFError):
        return False


def forked(function: Callable[[], int], log: Path | None = None) -> int:
    """The exit code of a child that runs `function`; its output goes to `log`."""
    pid = os.fork()
    if pid == 0:
        _run(function, log)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def supervised(function: Callable[[], int], folder: Path, kill_at: int | None, log: Path | None = None) -> Outcome:
    """Runs `function` in a child, and kills it before its call number `kill_at` (from 1) that writes below `folder`."""
    ours, its = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        try:
            socket.send_fds(its, [b"x"], [_filter()])
        except OSError:
            os._exit(70)
        _run(function, log)
    its.close()
    _, files, _, _ = socket.recv_fds(ours, 1, 1)
    ours.close()
    calls: list[str] = []
    if not files:
        os.waitpid(pid, 0)
        raise EOFError("this system doesn't let a process filter its system calls")
    poll = select.poll()
    poll.register(files[0], select.POLLIN)
    is_killed = False
    try:
        while (events := poll.poll(1000 * MOST_SECONDS)) and events[0][1] & select.POLLIN:
            request = bytearray(80)
            try:
                fcntl.ioctl(files[0], _RECEIVE, request, True)
            except FileNotFoundError:  # the thread ended meanwhile
                continue
            notice, thread, _, number, _, _, *arguments = struct.unpack("QIIiIQ6Q", request)
            call = _call(thread, number, arguments, folder)
            if call is not None:
                calls.append(call)
                if len(calls) == kill_at:
                    os.killpg(pid, signal.SIGKILL)
                    is_killed = True
                    break
            try:
                fcntl.ioctl(files[0], _SEND, bytearray(struct.pack("QqiI", notice, 0, 0, 1)))
            except FileNotFoundError:
                continue
        if not events:
            os.killpg(pid, signal.SIGKILL)
    finally:
        os.close(files[0])
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Outcome(None if is_killed else code, calls)


def _run(function: Callable[[], int], log: Path | None) -> NoReturn:
    """The rest of a child's life."""
    code = 71
    try:
        file = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        code = function()
    finally:
        os._exit(code)


def _filter() -> int:
    """Makes this process ask before each of the calls; returns the file through which another one answers."""
    calls = [*_PATHS, *_FILES]
    program = [struct.pack("HBBI", 0x20, 0, 0, 0)]  # load the call's number
    for number in calls:
        program += [struct.pack("HBBI", 0x15, 0, 1, number), struct.pack("HBBI", 0x06, 0, 0, _NOTIFY)]
    program.append(struct.pack("HBBI", 0x06, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    file: int = libc.syscall(317, 1, 8, header)  # seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER)
    if file < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return file


def _call(thread: int, number: int, arguments: list[int], folder: Path) -> str | None:
    """The call in words if it writes below `folder`."""
    try:
        if number in _FILES:
            name, at = _FILES[number]
            paths = [os.readlink(f"/proc/{thread}/fd/{arguments[at]}")]
        else:
            name, places = _PATHS[number]
            flags = {2: 1, 257: 2}.get(number)
            if flags is not None and not arguments[flags] & _WRITING:
                return None
            paths = [_path(thread, None if at is None else arguments[at], arguments[path]) for at, path in places]
    except OSError:  # no such file, or an address that isn't one: the call itself fails
        return None
    below = [os.path.relpath(path, folder) for path in paths if os.path.normpath(path).startswith(f"{folder}/")]
    return f"{name} {' '.join(below)}" if below else None


def _path(thread: int, at: int | None, address: int) -> str:
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        text = b""
        while b"\0" not in text:  # a page at a time: the next one may not be there
            text += memory.read(4096 - (address + len(text)) % 4096)
    path = os.fsdecode(text.split(b"\0")[0])
    folder = "cwd" if at is None or ctypes.c_int32(at & 0xFFFFFFFF).value < 0 else f"fd/{at}"
    return path if path.startswith("/") else os.path.join(os.readlink(f"/proc/{thread}/{folder}"), path)
