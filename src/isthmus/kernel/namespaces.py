"""Network namespaces: run a function in one, make one.

A thread can change its own network namespace; a process as a whole cannot. So `inside` takes a short-lived thread
into the namespace, and no thread that does anything else ever leaves home. Sockets stay in the namespace they were made
in, whoever uses them later: make the socket inside, use it outside. Children started inside stay inside as well.

Rejected: `nsenter` or `ip netns exec`, a process for every look; and changing the calling thread and changing it back,
which leaves it stranded if the second change fails.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from isthmus.kernel.errors import KernelError, describe

CLONE_NEWNET = 0x40000000

Result = TypeVar("Result")
Target = int | str | Path
"""A network namespace: a process number, or the path of a namespace file (`/run/netns/NAME`, `/proc/N/ns/net`)."""


def inside(target: Target, function: Callable[[], Result]) -> Result:
    """Runs `function` in the network namespace `target` and returns its result, or raises what it raised.

    Raises KernelError if the namespace cannot be entered. There is no time-out of its own: a thread cannot be stopped
    from outside, so `function` has to end by itself.
    """
    descriptor = open_namespace(target)
    try:
        return inside_descriptor(descriptor, function)
    finally:
        os.close(descriptor)


def inside_descriptor(descriptor: int, function: Callable[[], Result]) -> Result:
    """Is `inside` for a namespace that is held open already."""

    def work() -> Result:
        enter(descriptor)
        return function()

    return _in_thread(work)


def open_namespace(target: Target) -> int:
    """Returns a descriptor that keeps the namespace alive until it is closed. Raises KernelError."""
    path = f"/proc/{target}/ns/net" if isinstance(target, int) else os.fspath(target)
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"network namespace {path}: {error.strerror}", errno=error.errno or 0) from error


def new_namespace() -> int:
    """Makes a network namespace and returns a descriptor of it; it is gone once nothing holds or uses it.

    Raises KernelError; EPERM without CAP_SYS_ADMIN in the user namespace.
    """

    def work() -> int:
        if _libc.unshare(CLONE_NEWNET):
            number = ctypes.get_errno()
            raise KernelError(f"new network namespace: {describe(number)}", errno=number)
        return own_namespace()

    return _in_thread(work)


def own_namespace() -> int:
    """Returns a descriptor of the calling thread's network namespace. Raises KernelError."""
    return open_namespace(f"/proc/self/task/{threading.get_native_id()}/ns/net")


def enter(descriptor: int) -> None:
    """Takes the calling thread into a network namespace, for good. Raises KernelError.

    Where it is already there is nothing to do, and nothing is needed for that: entering takes CAP_SYS_ADMIN, which an
    agent on its own node does not have.
    """
    home = own_namespace()
    try:
        if os.path.sameopenfile(home, descriptor):
            return
    finally:
        os.close(home)
    if _libc.setns(descriptor, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise KernelError(f"enter network namespace: {describe(number)}", errno=number)


def _in_thread(work: Callable[[], Result]) -> Result:
    results: list[Result] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work())
        except BaseException as error:  # it is raised again in the calling thread
            errors.append(error)

    thread = threading.Thread(target=body, name="netns", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.setns.argtypes = [ctypes.c_int, ctypes.c_int]
_libc.unshare.argtypes = [ctypes.c_int]
