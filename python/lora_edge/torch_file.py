"""Reading a PyTorch checkpoint (`torch.save` of a state dict) without PyTorch and without running anything of it.

Format (torch.serialization, since 1.6): a zip with NAME/data.pkl, a pickle of protocol 2 whose tensors are calls of
torch._utils._rebuild_tensor_v2 on storages, and NAME/data/KEY, the bytes of each storage, not compressed.

A pickle is a program, and Python's own unpickler would run it.  The one here knows only the instructions that a
state dict needs, and a call is never made: what `_StateDict._value` knows becomes data, everything else is an error.
"""

from __future__ import annotations

import math
import os
import reprlib
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from .adapter_parts import Array
from .safetensors_file import DTYPES, MAX_DIMS, TensorInfo

MAX_PICKLE = 16 << 20  # bytes
MAX_VALUES = 1 << 20  # instructions that make a value
MAX_ENTRIES = 1 << 17  # files in the zip

_STORAGES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip


class _Global(NamedTuple):
    module: str
    name: str


class _Storage(NamedTuple):
    dtype: str
    key: str
    size: int  # elements


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int  # elements
    shape: tuple[int, ...]


_ORDERED_DICT = _Global("collections", "OrderedDict")
_TENSOR = _Global("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = _Global("torch._utils", "_rebuild_parameter")


class TorchFile:
    """A state dict as `SafetensorsFile` shows one: `info[name]`, `array(name)`. The arrays are copies.

    ValueError: the file is no such checkpoint, or a damaged one, or its pickle holds anything but tensors.
    OSError: it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not zipfile.is_zipfile(self.path):
            self._fail("not a checkpoint of torch 1.6 or later: save it again, best as safetensors")
        try:
            with zipfile.ZipFile(self.path) as archive:
                self._read(archive)
        except NotImplementedError as error:  # a version or an encryption that zipfile doesn't know
            self._fail(f"its zip asks for what torch never writes: {str(error)[:100]!r}")
        except (zipfile.BadZipFile, EOFError, RuntimeError, UnicodeDecodeError) as error:
            self._fail(f"its zip is damaged or encrypted: {str(error)[:100]!r}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.info)

    def __contains__(self, name: str) -> bool:
        return name in self.info

    def array(self, name: str) -> Array:
        """Values of one tensor, shaped; uint16 bits for BF16. KeyError: no such tensor."""
        dtype, shape, begin, end = self.info[name]
        with open(self.path, "rb") as file:
            file.seek(begin)
            raw = file.read(end - begin)
        if len(raw) != end - begin:
            self._fail(f"the values of {name!r} are cut off")
        return np.frombuffer(raw, DTYPES[dtype]).reshape(shape)

    def _fail(self, what: str) -> NoReturn:
        raise ValueError(f"[torch] {self.path}: {what}")

    def _read(self, archive: zipfile.ZipFile) -> None:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) > MAX_ENTRIES or len(entries) != len(archive.infolist()):
            self._fail("its zip has too many files, or the same one twice")
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1 or not 0 < entries[pickles[0]].file_size <= MAX_PICKLE:
            self._fail(f"its zip holds no data.pkl of at most {MAX_PICKLE >> 20} MiB")
        folder = pickles[0].removesuffix("data.pkl")
        order = entries.get(f"{folder}byteorder")
        if any(e is not None and e.compress_type != zipfile.ZIP_STORED for e in (entries[pickles[0]], order)):
            self._fail("its data.pkl is compressed, which torch never does")
        if order is not None and ((order.compress_size, order.file_size) != (6, 6) or archive.read(order) != b"little"):
            self._fail("its byteorder is not 'little'")
        with archive.open(pickles[0]) as file:
            tensors = _StateDict(file.read(MAX_PICKLE), self._fail).tensors()
        with open(self.path, "rb") as raw:
            self.metadata: dict[str, str] = {}
            self.info = {name: self._info(name, tensor, entries, folder, raw) for name, tensor in tensors.items()}

    def _info(
        self, name: str, tensor: _Tensor, entries: dict[str, zipfile.ZipInfo], folder: str, raw: BinaryIO
    ) -> TensorInfo:
        entry = entries.get(f"{folder}data/{tensor.storage.key}")
        size = np.dtype(DTYPES[tensor.storage.dtype]).itemsize
        if entry is None or entry.compress_type != zipfile.ZIP_STORED or entry.file_size != tensor.storage.size * size:
            self._fail(f"the values of {name[:80]!r} are missing, compressed, or not {tensor.storage.size} elements")
        raw.seek(entry.header_offset)
        header = raw.read(30)
        if len(header) < 30 or header[:4] != b"PK\3\4":
            self._fail(f"the values of {name[:80]!r} are not where the zip says")
        begin = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:30])) + tensor.offset * size
        if tensor.offset + math.prod(tensor.shape) > tensor.storage.size:
            self._fail(f"{name[:80]!r} of shape {tensor.shape} reaches beyond its {tensor.storage.size} values")
        return TensorInfo(tensor.storage.dtype, tensor.shape, begin, begin + math.prod(tensor.shape) * size)


class _StateDict:
    """The interpreter of data.pkl. Values are None, bool, int, float, str, tuple, list, dict and the tuples above."""

    def __init__(self, raw: bytes, fail: Callable[[str], NoReturn]) -> None:
        self._raw, self._at, self._fail = raw, 0, fail
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def tensors(self) -> dict[str, _Tensor]:
        """Name -> tensor."""
        damage = (LookupError, struct.error, UnicodeDecodeError, TypeError, AttributeError, OverflowError)
        try:
            table = self._run()
        except damage as error:
            self._fail(f"a damaged pickle ({type(error).__name__} at byte {self._at})")
        if not isinstance(table, dict) or not all(isinstance(k, str) for k in table):
            self._fail("its pickle is not a dict of tensors")
        for name, value in table.items():
            if not isinstance(value, _Tensor):
                self._fail(f"{name[:80]!r} is not a tensor but a {type(value).__name__}")
        return table

    def _take(self, n: int) -> bytes:
        raw = self._raw[self._at : self._at + n]
        if len(raw) != n:
            self._fail("its pickle is cut off")
        self._at += n
        return raw

    def _line(self) -> str:
        end = self._raw.find(b"\n", self._at)
        if end < 0:
            self._fail("its pickle is cut off")
        return self._take(end + 1 - self._at)[:-1].decode("utf-8")

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    def _popped(self) -> list[Any]:
        """What lies above the last mark."""
        at = self._marks.pop()
        items = self._stack[at:]
        del self._stack[at:]
        return items

    def _run(self) -> Any:
        simple: dict[bytes, Callable[[], Any]] = {
            b"}": dict, b"]": list, b")": tuple, b"N": lambda: None, b"\x88": lambda: True, b"\x89": lambda: False,
            b"K": lambda: self._number("<B"), b"M": lambda: self._number("<H"), b"J": lambda: self._number("<i"),
            b"\x8a": lambda: int.from_bytes(self._take(self._number("<B")), "little", signed=True),
            b"G": lambda: struct.unpack(">d", self._take(8))[0],
            b"X": lambda: self._take(self._number("<I")).decode("utf-8"),
            b"c": lambda: _Global(self._line(), self._line()),
            b"h": lambda: self._memo[self._number("<B")], b"j": lambda: self._memo[self._number("<I")],
            b"t": lambda: tuple(self._popped()),
        }  # fmt: skip
        for _ in range(MAX_VALUES):
            code = self._take(1)
            if code in simple:
                self._stack.append(simple[code]())
            elif code == b".":
                return self._stack.pop()
            else:
                self._instruct(code)
        return self._fail(f"its pickle has more than {MAX_VALUES} instructions")

    def _instruct(self, code: bytes) -> None:
        stack = self._stack
        if code == b"\x80":
            if self._number("<B") > 4:
                self._fail("its pickle is of an unknown protocol")
        elif code == b"(":
            self._marks.append(len(stack))
        elif code in (b"q", b"r"):
            self._memo[self._number("<B" if code == b"q" else "<I")] = stack[-1]
        elif code in (b"\x85", b"\x86", b"\x87"):
            n = code[0] - 0x84
            stack[-n:] = [tuple(stack[len(stack) - n :])]
        elif code in (b"s", b"u"):
            pairs = self._popped() if code == b"u" else [stack.pop(-2), stack.pop()]
            if len(pairs) % 2 or not all(isinstance(k, (str, int)) for k in pairs[::2]):
                self._fail("its pickle has a dict whose keys are no names")
            stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))
        elif code in (b"a", b"e"):
            items = self._popped() if code == b"e" else [stack.pop()]
            stack[-1].extend(items)
        elif code == b"Q":
            stack.append(self._storage(stack.pop()))
        elif code == b"R":
            arguments = stack.pop()
            stack.append(self._value(stack.pop(), arguments))
        elif code == b"b":  # attributes of an OrderedDict, such as _metadata: nothing of them is used
            stack.pop()
            if not isinstance(stack[-1], dict):
                self._fail("its pickle sets the state of an object; only tensors are read")
        else:
            self._fail(f"its pickle holds the instruction {code!r}, which no state dict needs; only tensors are read")

    def _storage(self, pid: Any) -> _Storage:
        """("storage", type, key, device, number of elements)"""
        if not isinstance(pid, tuple) or len(pid) != 5:
            self._fail("its pickle refers to something that is no storage")
        kind, storage, key, _, size = pid
        if kind != "storage" or not isinstance(storage, _Global) or storage.module != "torch":
            self._fail(f"its pickle asks for {_show(storage)} as a storage")
        if storage.name not in _STORAGES or not isinstance(key, str) or not _is_count(size):
            self._fail(f"its storage {_show(key)} is a {storage.name[:40]} of {_show(size)} elements")
        return _Storage(_STORAGES[storage.name], key, size)

    def _value(self, function: Any, arguments: Any) -> Any:
        """What one of the three functions of a state dict would return."""
        if function == _ORDERED_DICT and arguments == ():
            return {}
        if function == _PARAMETER and arguments and isinstance(arguments[0], _Tensor):
            return arguments[0]
        if function != _TENSOR:
            name = ".".join(function) if isinstance(function, _Global) else type(function).__name__
            self._fail(f"its pickle calls {name[:120]!r}, which could do anything; only tensors are read")
        storage, offset, shape, stride = (*arguments, None, None, None, None)[:4]
        tuples = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= MAX_DIMS
        if not isinstance(storage, _Storage) or not _is_count(offset) or not tuples:
            self._fail("a tensor in its pickle has no storage, offset and shape")
        if not all(map(_is_count, (*shape, *stride))) or not _is_contiguous(shape, stride):
            self._fail(f"a tensor of shape {_show(shape)} and strides {_show(stride)} is not contiguous")
        return _Tensor(storage, offset, tuple(shape))


_show = reprlib.Repr().repr  # bounded in depth and length


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 60


def _is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    step = 1
    for n, s in zip(reversed(shape), reversed(stride), strict=True):
        if n != 1 and s != step:
            return False
        step *= n
    return True
