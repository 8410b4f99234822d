"""Runs in the sandboxed process, by itself: standard library only. It is a program; nothing imports it.

Three processes: this one gives up its rights; its child is the first process of namespaces of its own, so that all of
them die with it; the grandchild runs the answer's code and then the tests, under limits. The protocol is lines that
begin with a token from standard input: `started`, then `passed`, `failed TEXT`, or `bad_tests TEXT`.
"""

import ast
import contextlib
import ctypes
import inspect
import json
import os
import random
import re
import resource
import signal
import sys
import traceback
import unittest
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 1, 2, 4, 0x4000, 0x40000
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_SET_PDEATHSIG, _SET_KEEPCAPS, _SET_CHILD_SUBREAPER, _SET_NO_NEW_PRIVS = 1, 8, 36, 38
_DAC_READ_SEARCH = 1 << 2
_MAX_PROCESSES, _MAX_FILES, _FILE_BYTES = 32, 64, 16 << 20
_DETAIL = 500
_DEFINITIONS = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Import,
    ast.ImportFrom,
    ast.Assign,
    ast.AnnAssign,
)


class _BadTests(Exception):
    """The tests cannot tell a right answer from a wrong one."""


def main() -> None:
    """Read the task from standard input and see it through."""
    task = json.loads(sys.stdin.buffer.read())
    channel = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    _LIBC.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    uid = 1_000_000 + os.getpid() if os.geteuid() == 0 else None  # nobody else's, so that its processes can be counted
    isolated = _unshare()
    _LIBC.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        _LIBC.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if isolated:
            _cover_files(task["memory_bytes"])
        grandchild = os.fork()
        if grandchild == 0:
            _restrict(task, uid, counted_alone=isolated or uid is not None)
            _run(task, channel)
            os._exit(0)
        os.close(channel)
        _await(grandchild)
        os._exit(0)
    os.close(channel)
    _await(child)
    if not isolated:
        _kill_orphans()


def _unshare() -> bool:
    """Own network, processes and files, where the kernel lets us: as root, or in a user namespace of our own."""
    uid, gid = os.geteuid(), os.getegid()
    own = _NEWNS | _NEWIPC | _NEWPID | _NEWNET
    if uid == 0 and _LIBC.unshare(own) == 0:
        return True
    if _LIBC.unshare(own | _NEWUSER) != 0:
        return False
    with contextlib.suppress(OSError):
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    return True


def _cover_files(size_bytes: int) -> None:
    """Make every file read-only, the working directory a small one in memory, and hide the other processes."""
    _LIBC.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    attributes = (ctypes.c_uint64 * 4)(_MS_RDONLY, 0, 0, 0)
    _LIBC.syscall(_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, ctypes.byref(attributes), ctypes.sizeof(attributes))
    here = os.getcwd()
    options = f"size={size_bytes // 4},mode=1777".encode()
    _LIBC.mount(b"tmpfs", here.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, options)
    os.chdir(here)
    if _LIBC.mount(b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_RDONLY, None) != 0:
        _LIBC.mount(b"tmpfs", b"/proc", b"tmpfs", _MS_RDONLY, None)


def _restrict(task: dict[str, Any], uid: int | None, *, counted_alone: bool) -> None:
    """Limits for the process that runs foreign code, and no rights that could lift them."""
    others = 0 if counted_alone else _count_own_processes()
    seconds = int(task["cpu_s"]) + 1
    limits = {
        resource.RLIMIT_AS: task["memory_bytes"],
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: _FILE_BYTES,
        resource.RLIMIT_NPROC: _MAX_PROCESSES + others,
        resource.RLIMIT_NOFILE: _MAX_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (allowed, allowed))
    kept = 0
    if uid is not None:
        kept = 0 if _readable_by_all(os.__file__) else _DAC_READ_SEARCH  # an interpreter in a private home
        _LIBC.prctl(_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _set_capabilities(kept)


def _set_capabilities(kept: int) -> None:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    effective_permitted_inheritable = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
    _LIBC.capset(header, effective_permitted_inheritable)


def _run(task: dict[str, Any], channel: int) -> None:
    say = f"{task['token']} ".encode()

    def report(what: str, detail: str = "") -> None:
        line = json.dumps(detail[:_DETAIL]).encode()
        os.write(channel, say + what.encode() + b" " + line + b"\n")

    # What the answer may not take from us later: it can put anything in place of a name.
    write, run_code, show, run_tests, bad_tests = report, exec, _shown, _run_what_tests_define, _BadTests
    try:
        tests = _compiled_tests(task["tests"])
    except (SyntaxError, ValueError, RecursionError, MemoryError, _BadTests) as error:
        write("bad_tests", f"{type(error).__name__.strip('_')}: {error}")
        return
    write("started")
    random.seed(0)
    os.environ.clear()
    sys.argv = [""]
    space: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    try:
        run_code(compile(task["code"], "<answer>", "exec", dont_inherit=True), space)
        before = dict(space)
        run_code(tests, space)
        run_tests({name: value for name, value in space.items() if before.get(name, before) is not value})
    except bad_tests as error:
        write("bad_tests", str(error))
    except BaseException as error:  # an exit before the tests are through is a failure like any other
        write("failed", show(error))
    else:
        write("passed")


def _compiled_tests(text: str) -> Any:
    tree = ast.parse(text, "<tests>")
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    does_something = any(
        isinstance(node, ast.ClassDef) or not isinstance(node, _DEFINITIONS)
        for node in tree.body
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    )
    if not does_something and not any(name.startswith("test") for name in names):
        raise _BadTests("they call nothing and define no test: every answer would pass")
    return compile(tree, "<tests>", "exec", dont_inherit=True)


def _run_what_tests_define(defined: dict[str, Any]) -> None:
    """Test functions and unittest cases that the tests define, run as pytest would find them."""
    cases = unittest.TestSuite()
    for name, value in defined.items():
        if isinstance(value, type) and issubclass(value, unittest.TestCase):
            cases.addTests(unittest.defaultTestLoader.loadTestsFromTestCase(value))
        elif name.startswith("test") and inspect.isfunction(value):
            needed = [one for one in inspect.signature(value).parameters.values() if one.default is one.empty]
            if needed:
                raise _BadTests(f"{name} takes arguments that nobody gives: {needed[0]}")
            result = value()
            if inspect.iscoroutine(result):
                import asyncio

                asyncio.run(result)
    outcome = unittest.TestResult()
    cases.run(outcome)
    if not outcome.wasSuccessful():
        raise AssertionError("; ".join(text.splitlines()[-1] for _, text in outcome.failures + outcome.errors))


def _shown(error: BaseException) -> str:
    """Where and what, without places and addresses of this machine."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in ("<answer>", "<tests>")]
    where = f"{frames[-1].filename} line {frames[-1].lineno}: " if frames else ""
    text = f"{where}{type(error).__name__}: {error}".replace(os.getcwd(), ".")
    return re.sub(r"0x[0-9a-f]+", "0x", text)[:_DETAIL]


def _await(process: int) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0)[0] != process:  # orphans come to us, too
            pass


def _kill_orphans() -> None:
    """Without a namespace of processes: what the answer left behind has come to us, and goes now."""
    for _ in range(100):
        try:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                orphans = [int(number) for number in file.read().split()]
        except OSError:
            return
        if not orphans:
            return
        for orphan in orphans:
            with contextlib.suppress(OSError):
                os.kill(orphan, signal.SIGKILL)
                os.waitpid(orphan, 0)


def _count_own_processes() -> int:
    """Threads of this user on the machine: what the limit of processes is counted with outside a namespace."""
    num = 0
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.getuid():
                num += len(os.listdir(f"/proc/{name}/task"))
    return num


def _readable_by_all(path: str) -> bool:
    while path != "/":
        if not os.stat(path).st_mode & 0o004:
            return False
        path = os.path.dirname(path)
    return True


if __name__ == "__main__":
    main()
