"""The fence around a student's code: put up part by part before a line of that code is read.

There are five parts: *files*, *network*, *processes*, *user* and *memory*. Each is put up by
itself, and none falls because another did; what could not be done is returned, in words, under the
name of its part. Linux gives all of them, to root as to an ordinary account that may make user
namespaces.
"""

import contextlib
import ctypes
import os
import resource
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

PARTS = ("files", "network", "processes", "user", "memory")
NOBODY = 65534  # the first worker's user; the second is one less, so that neither counts the other
MAX_PROCESSES = 32
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_MEASURES = ("/proc/meminfo", "/proc/cpuinfo", "/proc/stat")  # where a whole /proc is not permitted
_BIND, _RECURSIVE, _PRIVATE = 4096, 16384, 1 << 18  # <sys/mount.h>
_MOUNT_SETATTR, _AT_RECURSIVE = 442, 0x8000  # a system call since Linux 5.12
_READ_ONLY, _NO_SETUID = 1, 2
_NEW_FILES, _NEW_USER, _NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000  # <linux/sched.h>
_NEW_PROCESSES, _NEW_IPC = 0x20000000, 0x08000000
_DIE_WITH_PARENT, _ADOPT_ORPHANS, _NO_NEW_PRIVILEGES = 1, 36, 38  # <sys/prctl.h>
_CAPABILITIES_V3 = 0x20080522  # <linux/capability.h>
_libc = ctypes.CDLL(None, use_errno=True)
_own_users = False

Missing = dict[str, str]


def separate(slot: int) -> Missing:
    """Leave the namespaces of the machine, as root or, where that is not permitted, as a user.

    The caller's next child is the first process of its own table. Returns what did not work.
    """
    missing: Missing = {}
    if sys.platform != "linux":
        return dict.fromkeys(("files", "network", "processes"), f"{sys.platform} has no namespaces")
    global _own_users
    user_map = None
    try:
        _call("unshare", _NEW_FILES)
    except OSError:  # not root, or root without this right, as in most containers
        with contextlib.suppress(OSError):
            if os.geteuid() == 0:
                _become(NOBODY - slot)
        user_map = f"0 {os.geteuid()} 1", f"0 {os.getegid()} 1"
    if user_map:
        _try(missing, "files", lambda: _call("unshare", _NEW_USER))
        if not missing:
            _try(missing, "files", lambda: _map_user(*user_map))
            _own_users = not missing  # where 0 is the account that grades
        _try(missing, "files", lambda: _call("unshare", _NEW_FILES))
    if not missing:
        everything = _PRIVATE | _RECURSIVE
        _try(missing, "files", lambda: _mount("none", "/", None, everything))
    _try(missing, "network", lambda: _call("unshare", _NEW_NETWORK))
    _try(missing, "processes", lambda: _call("unshare", _NEW_IPC))
    _try(missing, "processes", lambda: _call("unshare", _NEW_PROCESSES))
    return missing


def confine(
    missing: Missing,
    home: str,
    visible: Sequence[str],
    hidden: Sequence[str],
    memory: int,
    seconds: int,
    slot: int,
) -> Missing:
    """Give up rights: files, user, processes, memory. The working folder becomes an empty one.

    Args:
        missing: what :func:`separate` returned.
        home: an empty folder; the worker's whole world is built on it.
        visible: what can be read beside the system's own folders.
        hidden: what cannot, wherever it lies; what is visible below it still is.
        memory: bytes of address space. seconds: of processor time. slot: which worker it is.

    Returns:
        What was not done: why, by part.
    """
    missing = dict(missing)
    os.chdir(home)
    if "files" not in missing:
        _try(missing, "files", lambda: _new_root(home, visible, hidden))
    _try(missing, "user", lambda: _drop_user(slot))
    for which, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 64 << 20),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            _limit(which, value)
    _try(missing, "memory", lambda: _limit(resource.RLIMIT_AS, memory))
    if os.getpid() == 1 or os.geteuid() > NOBODY - 64:  # not counting the teacher's own processes
        _try(missing, "processes", lambda: _limit(resource.RLIMIT_NPROC, MAX_PROCESSES))
    return missing


def _try(missing: Missing, part: str, step: Callable[[], object]) -> None:
    try:
        step()
    except (OSError, ValueError, AttributeError) as error:
        missing.setdefault(part, getattr(error, "strerror", None) or str(error))


def _call(name: str, *arguments: object) -> None:
    """Call a C function that returns 0; otherwise raise its OSError."""
    if getattr(_libc, name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _mount(source: str, target: str, kind: bytes | None, flags: int, data: bytes = b"") -> None:
    _call("mount", os.fsencode(source), os.fsencode(target), kind, flags, data)


def _attributes(path: str, on: int, off: int, flags: int) -> None:
    attributes = (ctypes.c_uint64 * 4)(on, off, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _call("syscall", _MOUNT_SETATTR, -1, os.fsencode(path), ctypes.c_uint(flags), attributes, size)


def _map_user(users: str, groups: str) -> None:
    for name, text in (("setgroups", "deny"), ("uid_map", users), ("gid_map", groups)):
        Path("/proc/self", name).write_text(text)


def _new_root(root: str, visible: Sequence[str], hidden: Sequence[str]) -> None:
    """Make ``root`` the root of the file system, with what is visible and an empty /tmp."""
    _mount("tmpfs", root, b"tmpfs", 0, b"mode=755,size=1m")
    for name in ("tmp", "proc"):
        os.mkdir(f"{root}/{name}")
    _mount("tmpfs", f"{root}/tmp", b"tmpfs", _NO_SETUID, b"mode=1777,size=256m")
    wanted = {path: True for path in (*SYSTEM, *DEVICES, *visible)}
    wanted |= {path: False for path in hidden if path not in wanted}
    done: dict[str, bool] = {}
    for path in sorted(wanted, key=lambda path: (path.count("/"), path)):
        above = [seen for seen in done if Path(path).is_relative_to(seen)]
        show, seen = wanted[path], bool(above) and done[max(above, key=len)]
        if os.path.lexists(path) and show != seen:
            (_show if show else _hide)(root, path)
            done[path] = show
        elif not show:
            done[path] = False
    try:
        _mount("proc", f"{root}/proc", b"proc", 0)
    except OSError:  # in some containers
        for path in filter(os.path.exists, _MEASURES):
            _show(root, path)
    _attributes(root, _READ_ONLY | _NO_SETUID, 0, _AT_RECURSIVE)
    _attributes(f"{root}/tmp", 0, _READ_ONLY, 0)
    os.chroot(root)
    os.chdir("/tmp")


def _show(root: str, path: str) -> None:
    target = root + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path) and path in SYSTEM:  # /bin is often a link to usr/bin
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        Path(target).touch()
    _mount(path, target, None, _BIND | _RECURSIVE)


def _hide(root: str, path: str) -> None:
    """Cover what lies in a folder that is shown."""
    if os.path.isdir(path):
        _mount("tmpfs", root + path, b"tmpfs", 0, b"mode=755,size=1m")
    else:
        _mount("/dev/null", root + path, None, _BIND)


def _become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _drop_user(slot: int) -> None:
    """Become nobody where we are root, and in any case lose every capability for good."""
    is_root = os.geteuid() == 0 and not _own_users
    if is_root:
        _become(NOBODY - slot)
    if hasattr(_libc, "capset"):
        _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
        _call("capset", header, (ctypes.c_uint32 * 6)())
        die_with_parent()
    if is_root:
        try:
            os.listdir(os.path.dirname(os.__file__))
        except OSError:
            raise OSError(
                0, f"others cannot read Python in {sys.prefix}: run chmod -R o+rX on it"
            ) from None


def die_with_parent() -> None:
    """Have this process killed when its parent ends, where the system can do that."""
    if sys.platform == "linux":
        _call("prctl", _DIE_WITH_PARENT, 9, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of what a worker leaves behind, in place of the system's first process."""
    if sys.platform == "linux":
        _call("prctl", _ADOPT_ORPHANS, 1, 0, 0, 0)


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


# --- trying it ---------------------------------------------------------------------------------


def probe(read: list[str], write: list[str], port: int, pid: int, memory: int) -> Missing:
    """Try, from inside, to do what each part should prevent; return what succeeded, by part.

    Args:
        read, write: files and folders that must not be readable, not be writable.
        port: where somebody listens on this machine. pid: a process that must not be reachable.
        memory: more than is allowed.
    """
    found: Missing = {}
    for path in read:
        with contextlib.suppress(OSError):
            os.listdir(path) if os.path.isdir(path) else Path(path).read_bytes()
            found["files"] = f"{path} can be read"
    for path in write:
        with contextlib.suppress(OSError):
            tried = Path(path, "written-by-the-probe")
            tried.touch()
            found["files"] = f"{path} can be written to"
            tried.unlink()
    with contextlib.suppress(OSError), socket.socket() as caller:
        caller.settimeout(2)
        caller.connect(("127.0.0.1", port))
        found["network"] = "a connection can be opened"
    if {name for _, name in socket.if_nameindex()} - {"lo"}:
        found["network"] = "a network card can be seen"
    with contextlib.suppress(OSError):
        if os.getppid():  # 0: outside of this process's own table, where numbers mean others
            os.kill(pid, 0)
            found["processes"] = "the grader's own process can be reached"
    if _can_fork(4 * MAX_PROCESSES):
        found["processes"] = "their number is not limited"
    with contextlib.suppress(OSError):
        os.setresuid(4321, 4321, 4321)
        found["user"] = "another user can be become"
    with contextlib.suppress(MemoryError):
        bytearray(memory)
        found["memory"] = "it is not limited"
    return found


def _can_fork(number: int) -> bool:
    children = []
    try:
        for _ in range(number):
            children.append(os.fork())
            if children[-1] == 0:
                os.read(os.pipe()[0], 1)  # until it is killed
                os._exit(0)
    except OSError:
        return False
    finally:
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)
    return True
