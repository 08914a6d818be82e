# SPDX-License-Identifier: MIT
"""The calls of Windows that are made on a source: handles, ntdll, kernel32.

Owns the prototypes, and :class:`Handle`.  Does not own layouts (:mod:`xloop.host.windows_abi`), nor
what a call is made for (:mod:`xloop.host.windows`).

**Why ntdll.**  NtCreateFile opens a name relative to the handle of its directory, as openat(2) does, and an
empty name relative to a handle is the object itself, as /proc/self/fd/N is.  The Win32 functions
know whole paths only: whoever renames or replaces a directory at the wrong moment would decide
where such a path leads.  These calls are documented and have not changed since Windows NT.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from ctypes import c_int32, c_int64, c_uint32, c_void_p
from typing import TYPE_CHECKING, Any

from xloop.host import windows_abi as abi
from xloop.host.base import Descriptor
from xloop.host.windows_errors import of_status, of_winerror

assert not TYPE_CHECKING or sys.platform == "win32"

__all__ = [
    "Handle",
    "control",
    "create_file",
    "nt_open",
    "query",
    "query_directory",
    "query_volume",
    "read_at",
    "set_information",
    "status_of",
    "write_at",
]

_ntdll = ctypes.WinDLL("ntdll")
_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)

_to_winerror = _ntdll.RtlNtStatusToDosError
_to_winerror.argtypes = [c_uint32]
_to_winerror.restype = c_uint32

_CloseHandle = _kernel32.CloseHandle
_CloseHandle.argtypes = [c_void_p]


class Handle(Descriptor):
    """A HANDLE that closes itself: :class:`xloop.host.base.Descriptor`."""

    __slots__ = ()

    def __del__(self, _close: Callable[[int], object] = _CloseHandle) -> None:
        _close(self)


def _failed(status: int) -> OSError:
    # Through OSError's constructor, so that the exception is a FileNotFoundError and so on.
    error = of_status(status, _to_winerror)
    error.nt_status = status & 0xFFFFFFFF  # type: ignore[attr-defined]
    return error


def status_of(error: OSError) -> int:
    """Return the NTSTATUS that *error* was made from; 0 where it was made otherwise."""
    status: int = getattr(error, "nt_status", 0)
    return status


class _Thread(threading.local):
    """What a thread needs for every call, made once: 2 us less each time."""

    def __init__(self) -> None:
        self.status = abi.IO_STATUS_BLOCK()
        self.status_at = ctypes.addressof(self.status)
        self.handle = c_void_p()
        self.handle_at = ctypes.addressof(self.handle)
        self.name = abi.UNICODE_STRING()
        self.object = abi.OBJECT_ATTRIBUTES(
            ctypes.sizeof(abi.OBJECT_ATTRIBUTES),
            None,
            ctypes.addressof(self.name),
            abi.OBJ_CASE_INSENSITIVE | abi.OBJ_DONT_REPARSE,
            None,
            None,
        )
        self.object_at = ctypes.addressof(self.object)
        self.offset = c_int64()
        self.offset_at = ctypes.addressof(self.offset)


_thread = _Thread()

_NtCreateFile = _ntdll.NtCreateFile
_NtCreateFile.argtypes = [
    c_void_p,  # FileHandle
    c_uint32,  # DesiredAccess
    c_void_p,  # ObjectAttributes
    c_void_p,  # IoStatusBlock
    c_void_p,  # AllocationSize
    c_uint32,  # FileAttributes
    c_uint32,  # ShareAccess
    c_uint32,  # CreateDisposition
    c_uint32,  # CreateOptions
    c_void_p,  # EaBuffer
    c_uint32,  # EaLength
]
_NtCreateFile.restype = c_int32


def nt_open(
    root: int,
    name: bytes,
    access: int,
    options: int = abi.FILE_OPEN_REPARSE_POINT,
    *,
    disposition: int = abi.FILE_OPEN,
    attributes: int = abi.FILE_ATTRIBUTE_NORMAL,
    kind: type[Handle] = Handle,
) -> Handle:
    """Open or create the stored *name* in the directory *root*; an empty one is *root* itself.

    No link is followed: neither one that the name is (FILE_OPEN_REPARSE_POINT opens that itself; without
    it, ELOOP) nor one that *root* has become.
    """
    mine = _thread
    text = mine.name
    text.Length = text.MaximumLength = len(name)
    buffer = ctypes.c_char_p(name)
    text.Buffer = ctypes.cast(buffer, c_void_p).value if name else None
    mine.object.RootDirectory = root
    status = _NtCreateFile(
        mine.handle_at,
        access | abi.SYNCHRONIZE,
        mine.object_at,
        mine.status_at,
        None,
        attributes,
        abi.SHARE_ALL,
        disposition,
        options | abi.FILE_SYNCHRONOUS_IO_NONALERT | abi.FILE_OPEN_FOR_BACKUP_INTENT,
        None,
        0,
    )
    if status < 0:
        raise _failed(status)
    return kind(mine.handle.value or 0)


_CreateFile = _kernel32.CreateFileW
_CreateFile.argtypes = [
    ctypes.c_wchar_p,
    c_uint32,
    c_uint32,
    c_void_p,
    c_uint32,
    c_uint32,
    c_void_p,
]
_CreateFile.restype = c_void_p
_INVALID = c_void_p(-1).value


def create_file(path: str, access: int) -> Handle:
    r"""Open what is at *path*, which begins with ``\\?\``; symbolic links are followed."""
    handle = _CreateFile(
        path,
        access | abi.SYNCHRONIZE,
        abi.SHARE_ALL,
        None,
        abi.OPEN_EXISTING,
        abi.FILE_FLAG_BACKUP_SEMANTICS,
        None,
    )
    if handle is None or handle == _INVALID:
        raise of_winerror(ctypes.get_last_error())
    return Handle(handle)


# Both query calls: handle, status block, buffer, its size, class.  So has NtSetInformationFile.
_INFORMATION: list[Any] = [c_void_p, c_void_p, c_void_p, c_uint32, c_uint32]
_NtQueryInformationFile = _ntdll.NtQueryInformationFile
_NtQueryVolumeInformationFile = _ntdll.NtQueryVolumeInformationFile
_NtSetInformationFile = _ntdll.NtSetInformationFile
for _call in (_NtQueryInformationFile, _NtQueryVolumeInformationFile, _NtSetInformationFile):
    _call.argtypes = _INFORMATION
    _call.restype = c_int32

_OVERFLOW = abi.STATUS_BUFFER_OVERFLOW - (1 << 32)  # as c_int32 has it


def _queried(call: Any, handle: int, kind: int, size: int) -> bytearray:
    data = bytearray(size)
    at = ctypes.addressof(ctypes.c_char.from_buffer(data))
    status = call(handle, _thread.status_at, at, size, kind)
    if status < 0 and status != _OVERFLOW:
        raise _failed(status)
    return data


def query(handle: int, kind: int, size: int) -> bytearray:
    """Return the first *size* bytes of an information class."""
    return _queried(_NtQueryInformationFile, handle, kind, size)


def query_volume(handle: int, kind: int, size: int) -> bytearray:
    """As query(), of the volume that the object lies on."""
    return _queried(_NtQueryVolumeInformationFile, handle, kind, size)


def set_information(handle: int, kind: int, data: bytes) -> None:
    status = _NtSetInformationFile(handle, _thread.status_at, data, len(data), kind)
    if status < 0:
        raise _failed(status)


_NtQueryDirectoryFile = _ntdll.NtQueryDirectoryFile
_NtQueryDirectoryFile.argtypes = [
    c_void_p,  # FileHandle
    c_void_p,  # Event
    c_void_p,  # ApcRoutine
    c_void_p,  # ApcContext
    c_void_p,  # IoStatusBlock
    c_void_p,  # FileInformation
    c_uint32,  # Length
    c_uint32,  # FileInformationClass
    ctypes.c_ubyte,  # ReturnSingleEntry
    c_void_p,  # FileName
    ctypes.c_ubyte,  # RestartScan
]
_NtQueryDirectoryFile.restype = c_int32
_AT_END = {status - (1 << 32) for status in (abi.STATUS_NO_MORE_FILES, abi.STATUS_NO_SUCH_FILE)}


def query_directory(
    handle: int, buffer: bytearray, *, restart: bool, name: bytes | None = None
) -> int:
    """Put the next FILE_ID_FULL_DIR_INFORMATION records into *buffer*; return how many bytes.

    *name*: only the one that is so stored, in whatever case.  The first call on a handle decides.
    """
    mine = _thread
    wanted = None
    if name is not None:
        text = abi.UNICODE_STRING(len(name), len(name))
        kept = ctypes.c_char_p(name)
        text.Buffer = ctypes.cast(kept, c_void_p).value
        wanted = ctypes.addressof(text)
    status = _NtQueryDirectoryFile(
        handle,
        None,
        None,
        None,
        mine.status_at,
        ctypes.addressof(ctypes.c_char.from_buffer(buffer)),
        len(buffer),
        abi.FileIdFullDirectoryInformation,
        0,
        wanted,
        restart,
    )
    if status in _AT_END:
        return 0
    if status < 0:
        raise _failed(status)
    return int(mine.status.Information)


_TRANSFER: list[Any] = [
    c_void_p,  # FileHandle
    c_void_p,  # Event
    c_void_p,  # ApcRoutine
    c_void_p,  # ApcContext
    c_void_p,  # IoStatusBlock
    c_void_p,  # Buffer
    c_uint32,  # Length
    c_void_p,  # ByteOffset
    c_void_p,  # Key
]
_NtReadFile = _ntdll.NtReadFile
_NtWriteFile = _ntdll.NtWriteFile
for _call in (_NtReadFile, _NtWriteFile):
    _call.argtypes = _TRANSFER
    _call.restype = c_int32
_AT_END_OF_FILE = abi.STATUS_END_OF_FILE - (1 << 32)


def read_at(handle: int, size: int, offset: int) -> bytes:
    """pread(2).  The offset goes with the call, so threads that share a handle do not meet."""
    mine = _thread
    buffer = ctypes.create_string_buffer(size)
    mine.offset.value = offset
    at = ctypes.addressof(buffer)
    status = _NtReadFile(handle, None, None, None, mine.status_at, at, size, mine.offset_at, None)
    if status == _AT_END_OF_FILE:
        return b""
    if status < 0:
        raise _failed(status)
    return ctypes.string_at(at, mine.status.Information)


def write_at(handle: int, data: bytes | memoryview, offset: int) -> int:
    """pwrite(2).  Through a handle that may only append, the data goes to the end of the file."""
    mine = _thread
    mine.offset.value = offset
    size = len(data)
    buffer: bytes | ctypes.Array[ctypes.c_char] | int
    if isinstance(data, bytes):
        buffer = data
    elif data.readonly:
        buffer = bytes(data)
    else:
        buffer = ctypes.addressof(ctypes.c_char.from_buffer(data)) if size else b""
    status = _NtWriteFile(
        handle, None, None, None, mine.status_at, buffer, size, mine.offset_at, None
    )
    if status < 0:
        raise _failed(status)
    return int(mine.status.Information)


_NtFlushBuffersFile = _ntdll.NtFlushBuffersFile
_NtFlushBuffersFile.argtypes = [c_void_p, c_void_p]
_NtFlushBuffersFile.restype = c_int32


def flush(handle: int) -> None:
    status = _NtFlushBuffersFile(handle, _thread.status_at)
    if status < 0:
        raise _failed(status)


_NtFsControlFile = _ntdll.NtFsControlFile
_NtFsControlFile.argtypes = [
    c_void_p,  # FileHandle
    c_void_p,  # Event
    c_void_p,  # ApcRoutine
    c_void_p,  # ApcContext
    c_void_p,  # IoStatusBlock
    c_uint32,  # FsControlCode
    c_void_p,  # InputBuffer
    c_uint32,  # InputBufferLength
    c_void_p,  # OutputBuffer
    c_uint32,  # OutputBufferLength
]
_NtFsControlFile.restype = c_int32


def control(handle: int, code: int, data: bytes = b"", size: int = 0) -> bytes:
    """Carry out a file system control, and return at most *size* bytes of its answer."""
    mine = _thread
    answer = ctypes.create_string_buffer(size) if size else None
    at = ctypes.addressof(answer) if answer is not None else None
    status = _NtFsControlFile(
        handle,
        None,
        None,
        None,
        mine.status_at,
        code,
        data or None,
        len(data),
        at,
        size,
    )
    if status < 0:
        raise _failed(status)
    return ctypes.string_at(at, mine.status.Information) if at is not None else b""
