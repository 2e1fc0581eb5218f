"""Starting programs that never outlive us, and learning of their end without a thread per child."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


class Account(msgspec.Struct, frozen=True):
    """A system account that a program runs as."""

    uid: int
    gid: int


def unprivileged() -> Account | None:
    """Whom to run a program as that refuses to run as root: `postgres` or `nobody`; None where we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    return Account(65534, 65534)


def _become(account: Account) -> None:
    # Data and programs may lie below a folder that only root may enter. Rather than open such folders to everyone, the
    # program keeps the one capability that lets it pass through them (containers often lack the first of the two).
    assert _libc is not None
    os.setgroups([])
    # access(2), by which PostgreSQL looks for its own programs, sets capabilities aside unless this bit is set. What
    # the change of user then no longer takes away, capset below does.
    _libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    _libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        data = (_CapabilityData * 2)()
        data[0].effective = data[0].permitted = data[0].inheritable = 1 << capability
        header = _CapabilityHeader(CAPABILITY_VERSION_3, 0)
        if _libc.capset(ctypes.byref(header), data) == 0:
            _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)
            return
    nothing = _CapabilityHeader(CAPABILITY_VERSION_3, 0)
    if _libc.capset(ctypes.byref(nothing), (_CapabilityData * 2)()) != 0:
        os._exit(1)


def before_exec(parent: int, death_signal: signal.Signals, account: Account | None) -> Callable[[], None]:
    """What a child does between fork and exec: becomes `account`, and is sent `death_signal` when `parent` dies."""

    def prepare() -> None:
        if account is not None:
            _become(account)
        if _libc is not None:
            # A change of user clears the parent-death signal, so it is set after it.
            _libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return prepare


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    output: int,
    cwd: Path | None = None,
    account: Account | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Starts a program in a session of its own, so that Ctrl-C in a terminal does not reach it, and with `death_signal`
    to be sent to it when we die, however we die. `output` is the descriptor of its stdout and stderr.

    Must be called from the main thread: the kernel sends the signal when the thread that forked ends.
    Raises `OSError` where the program cannot be started.
    """
    return subprocess.Popen(
        argv,
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=before_exec(os.getpid(), death_signal, account),
    )


async def ended(process: subprocess.Popen[bytes]) -> int:
    """Waits for the end of a child; returns its exit status, negative for a signal. Cancelling only stops waiting."""
    if process.poll() is None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        descriptor = os.pidfd_open(process.pid)
        try:
            loop.add_reader(descriptor, done.set)
            await done.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
    return process.wait()


def send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signals a child; nothing happens where it has already ended."""
    if process.poll() is None:
        process.send_signal(number)


def describe(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
