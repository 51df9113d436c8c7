"""Cut the worker off, as far as this system allows, before it sees a line of student code.

Linux gives most. Started in namespaces of its own (see ``sandbox``), the worker sees no network and
no other process, and of the files only Python, its libraries and the course, all read-only. Where a
step is not permitted it is left out, and the returned dictionary says so; the feedback shows it.
"""

import contextlib
import ctypes
import os
import resource
import socket
from collections.abc import Sequence
from pathlib import Path

NOBODY = 65534
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_BIND, _RECURSIVE = 4096, 16384  # <sys/mount.h>
_MOUNT_SETATTR, _AT_RECURSIVE = 442, 0x8000  # a system call since Linux 5.12
_READ_ONLY, _NO_SETUID = 1, 2
_NO_NEW_PRIVILEGES = 38  # <sys/prctl.h>
_CAPABILITIES_V3 = 0x20080522  # <linux/capability.h>
_libc = ctypes.CDLL(None, use_errno=True)


def confine(home: Path, visible: Sequence[str], memory: int, seconds: int) -> dict[str, str]:
    """Give up rights: files, network, user, resources. The working folder becomes an empty one.

    Args:
        home: an empty folder; where files can be hidden, the worker's whole world is built on it.
        visible: what can be read beside the system's own folders.
        memory: bytes of address space. seconds: of processor time.

    Returns:
        Under "files", "network", "processes" and "user": what was done, or "NOT …" and why.
    """
    own_processes = os.getpid() == 1  # the first process of a table of its own
    try:
        if not own_processes:
            raise PermissionError(0, "namespaces are not permitted here")
        _new_root(home, visible)
        files = "only Python, its libraries and the course, read-only"
    except OSError as error:
        os.chdir(home)
        files = f"NOT hidden ({error.strerror}): the code reads what the worker's user can read"
    interfaces = {name for _, name in socket.if_nameindex()}
    user = _drop_user(home)
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_CPU, seconds)
    _limit(resource.RLIMIT_FSIZE, 64 << 20)
    _limit(resource.RLIMIT_CORE, 0)
    if own_processes or user == "nobody":
        _limit(resource.RLIMIT_NPROC, 32)  # elsewhere it would count the teacher's own processes
        processes = "at most 32" + ", and no other is visible" * own_processes
    else:
        processes = "NOT limited, and the others of this user can be reached"
    return {
        "files": files,
        "network": "off" if interfaces <= {"lo"} else "NOT off: the code can open connections",
        "processes": processes,
        "user": user,
    }


def _call(name: str, *arguments: object) -> None:
    """Call a C function that returns 0; otherwise raise its OSError."""
    if getattr(_libc, name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _mount(source: str, target: str, kind: bytes | None, flags: int, data: bytes = b"") -> None:
    _call("mount", os.fsencode(source), os.fsencode(target), kind, flags, data)


def _new_root(home: Path, visible: Sequence[str]) -> None:
    """Make ``home`` the root of the file system, with what is visible and an empty /tmp."""
    root = os.fspath(home)
    _mount("tmpfs", root, b"tmpfs", 0, b"mode=755,size=1m")
    shown: list[str] = []
    for path in (*SYSTEM, *DEVICES, *sorted(visible, key=len)):
        if not os.path.exists(path) or any(Path(path).is_relative_to(seen) for seen in shown):
            continue
        target = root + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(path) and path in SYSTEM:  # /bin is often a link to usr/bin
            os.symlink(os.readlink(path), target)
            continue
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            Path(target).touch()
        _mount(path, target, None, _BIND | _RECURSIVE)
        shown.append(path)
    for name in ("tmp", "proc"):
        os.mkdir(f"{root}/{name}")
    with contextlib.suppress(OSError):  # not permitted in some containers; not needed either
        _mount("proc", f"{root}/proc", b"proc", 0)
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY | _NO_SETUID, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    recursive = ctypes.c_uint(_AT_RECURSIVE)
    _call("syscall", _MOUNT_SETATTR, -1, os.fsencode(root), recursive, attributes, size)
    _mount("tmpfs", f"{root}/tmp", b"tmpfs", _NO_SETUID, b"mode=1777,size=256m")
    os.chroot(root)
    os.chdir("/tmp")


def _drop_user(home: Path) -> str:
    """Become nobody where we are root, and in any case lose every capability for good."""
    user = "NOT changed: that of the person who grades"
    try:
        if os.geteuid() == 0 and _nobody_can_read_python():
            if os.path.isdir(home):  # not in the new root
                os.chown(home, NOBODY, NOBODY)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            user = "nobody"
    except OSError:
        pass  # in a user namespace there is nobody else to become
    if hasattr(_libc, "capset"):
        _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
        _call("capset", header, (ctypes.c_uint32 * 6)())
    return user


def _nobody_can_read_python() -> bool:
    os.seteuid(NOBODY)
    try:
        os.listdir(os.path.dirname(os.__file__))
        return True
    except OSError:
        return False
    finally:
        os.seteuid(0)


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS does not know every limit
        resource.setrlimit(which, (value, value))
