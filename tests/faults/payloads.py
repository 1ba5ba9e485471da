"""Makers of malicious files. Each would create the canary if anything in it were executed.

A payload is bytes and nothing else: it is written here with pickle's opcodes, never run.
"""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch


class Call:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: str, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments


class Reference(Call):
    """The function itself, not a call of it."""


def opcodes(value: Any, protocol: int = 2) -> bytes:
    """A pickle of ``value``, in which a ``Call`` may name what is not importable here."""
    return _header(protocol) + _push(value, protocol) + b"."


def _header(protocol: int) -> bytes:
    return b"\x80" + bytes([protocol]) if protocol >= 2 else b""


def _push(value: Any, protocol: int) -> bytes:
    if isinstance(value, Reference):
        return _global(value.function, protocol)
    if isinstance(value, Call):
        arguments = b"(" + b"".join(_push(a, protocol) for a in value.arguments) + b"t"
        return _global(value.function, protocol) + arguments + b"R"
    if isinstance(value, dict):
        pairs = (_push(k, protocol) + _push(v, protocol) + b"s" for k, v in value.items())
        return b"(d" + b"".join(pairs)
    if isinstance(value, list):
        return b"(l" + b"".join(_push(v, protocol) + b"a" for v in value)
    # A plain value: pickle's own opcodes without its header, frame and end.
    return pickle.dumps(value, min(protocol, 1))[:-1]


def _global(name: str, protocol: int) -> bytes:
    module, _, attribute = name.partition(":")
    if protocol >= 4:  # STACK_GLOBAL, which also follows dots
        return _text(module) + _text(attribute) + b"\x93"
    return f"c{module}\n{attribute}\n".encode()


def _text(text: str) -> bytes:
    data = text.encode()
    return b"\x8c" + bytes([len(data)]) + data


# -- what is called ----------------------------------------------------------------------------


def calls(canary: Path) -> dict[str, Any]:
    """Values whose unpickling would create ``canary``, each by another road."""
    touch = f"touch '{canary}'"
    line = f"open({str(canary)!r}, 'w').close()"
    module = Call("builtins:__import__", "os")
    inner = opcodes(Call("os:system", touch))
    return {
        "os.system": Call("os:system", touch),
        "posix.system": Call("posix:system", touch),
        "os.popen": Call("os:popen", touch),
        "os.execv": Call("os:execv", "/bin/sh", ["sh", "-c", touch]),
        "os.mknod": Call("os:mknod", str(canary)),
        "os.mkdir": Call("os:mkdir", str(canary)),
        "subprocess.call": Call("subprocess:call", ["touch", str(canary)]),
        "subprocess.Popen": Call("subprocess:Popen", ["touch", str(canary)]),
        "subprocess.getoutput": Call("subprocess:getoutput", touch),
        "eval": Call("builtins:eval", line),
        "exec": Call("builtins:exec", line),
        "python2.eval": Call("__builtin__:eval", line),
        "open": Call("builtins:open", str(canary), "w"),
        "io.open": Call("io:open", str(canary), "w"),
        "io.FileIO": Call("io:FileIO", str(canary), "w"),
        "map": Call("builtins:list", Call("builtins:map", Reference("os:system"), [touch])),
        "getattr": Call("functools:reduce", Reference("builtins:getattr"), [module, "system"]),
        "getattr-chain": Call("builtins:map", Call("builtins:getattr", module, "system"), [touch]),
        "operator": Call("operator:call", Call("operator:attrgetter", "system"), module),
        "partial": Call("functools:partial", Reference("os:system"), touch),
        "pathlib.touch": Call("pathlib:Path.touch", Call("pathlib:Path", str(canary))),
        "pathlib.write_text": Call(
            "pathlib:Path.write_text", Call("pathlib:Path", str(canary)), ""
        ),
        "shutil.copy": Call("shutil:copy", "/etc/hostname", str(canary)),
        "runpy": Call("runpy:_run_code", Call("builtins:compile", line, "x", "exec"), {}),
        "code.interact": Call("code:InteractiveInterpreter.runcode", line),
        "timeit": Call("timeit:timeit", line),
        "cProfile": Call("cProfile:run", line),
        "pdb": Call("pdb:run", line),
        "bdb": Call("bdb:Bdb.run", Call("bdb:Bdb"), line),
        "pty": Call("pty:spawn", ["touch", str(canary)]),
        "importlib": Call("importlib:import_module", "antigravity"),
        "webbrowser": Call("webbrowser:open", "file:///"),
        "pickle.loads": Call("pickle:loads", inner),
        "_pickle.loads": Call("_pickle:loads", inner),
        "load_from_bytes": Call("torch.storage:_load_from_bytes", inner),
        "torch.load": Call("torch:load", str(canary)),
        "torch.hub.load": Call("torch.hub:load", "a/b", "c"),
        "torch.save": Call("torch:save", [1], str(canary)),
        "torch.jit.load": Call("torch.jit:load", str(canary)),
        "torch.ops": Call("torch.ops:load_library", str(canary)),
        "torch.compile_fx": Call("torch._inductor.codecache:PyCodeCache.load", line),
        "numpy.load": Call("numpy:load", str(canary)),
        "numpy.save": Call("numpy:save", str(canary), [1]),
        "numpy.runstring": Call("numpy.testing._private.utils:runstring", line, {}),
        "logging.FileHandler": Call("logging:FileHandler", str(canary)),
        "tempfile": Call("tempfile:mkdtemp", "", str(canary)),
        "ctypes": Call("ctypes:CDLL", str(canary)),
        "socket": Call("socket:create_connection", ["127.0.0.1", 1]),
        "segkit.write": Call(
            "segkit.whole_files:write_whole", Call("pathlib:Path", str(canary)), b""
        ),
        "segkit.cli": Call("segkit.cli:main", ["train"]),
    }


# -- the files they come in --------------------------------------------------------------------

# What torch's own legacy files begin with: a magic number, a protocol, the writer's machine.
_MAGIC = 0x1950A86A20F9469CFC6C
_MACHINE = {"protocol_version": 1001, "little_endian": True}


def legacy(value: Any) -> bytes:
    """torch's format of before 1.6: five pickles in a row."""
    return b"".join(opcodes(v) for v in (_MAGIC, 1001, _MACHINE, value, []))


def zipped(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """torch's format of today: a zip with everything in one folder."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in {"version": b"3\n", "byteorder": b"little", **members}.items():
            archive.writestr(f"archive/{name}", data)
    return out.getvalue()


def tarred(value: Any) -> bytes:
    """torch's format of before 0.1.10."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            data = opcodes(value)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def formats(call: Call) -> dict[str, bytes]:
    """One call in every kind of file and in every place a pickle has, by file name."""
    sound = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(2)}, sound)
    plain = {f"protocol-{n}.pth": opcodes(call, n) for n in range(6)}
    code = b"def forward(self):\n  return 1\n"
    return plain | {
        "legacy.pth": legacy(call),
        "legacy-magic.pth": opcodes(call) + opcodes(1001) + opcodes({}) + opcodes({}),
        "legacy-machine.pth": opcodes(_MAGIC) + opcodes(1001) + opcodes(call) + opcodes({}),
        "legacy-keys.pth": legacy({})[: -len(opcodes([]))] + opcodes(call),
        "zip.pth": zipped({"data.pkl": opcodes(call)}),
        "zip-deflated.pth": zipped({"data.pkl": opcodes(call)}, zipfile.ZIP_DEFLATED),
        "zip.zip.pt": zipped({"data.pkl": zipped({"data.pkl": opcodes(call)})}),
        "value.pth": zipped({"data.pkl": opcodes({"conv1.weight": call})}),
        "key.pth": zipped({"data.pkl": opcodes([call, {"a": 1}])}),
        "torchscript.pt": zipped(
            {"data.pkl": opcodes(call), "constants.pkl": opcodes(call), "code/x.py": code}
        ),
        "bytecode.pt": zipped(
            {"data.pkl": opcodes({}), "constants.pkl": opcodes([]), "bytecode.pkl": opcodes(call)}
        ),
        "gzip.pth": gzip.compress(opcodes(call)),
        "gzip-legacy.pth": gzip.compress(legacy(call)),
        "tar.pth": tarred(call),
        "pickle.safetensors": opcodes(call),
        "legacy.safetensors": legacy(call),
        "zip.safetensors": zipped({"data.pkl": opcodes(call)}),
        "build.pth": _header(2) + _global("builtins:object", 2) + b")\x81" + _push(call, 2) + b"b.",
        "inst.pth": b"(" + _push(call.arguments[0], 0) + _named_by_inst(call.function) + b".",
        "obj.pth": b"(" + _global(call.function, 2) + _push(call.arguments[0], 1) + b"o.",
        "newobj.pth": _header(2)
        + _global(call.function, 2)
        + _push(call.arguments[0], 1)
        + b"\x85\x81.",
        "wrapped.pth": zipped({"data.pkl": opcodes({"state_dict": {"conv1.weight": call}})}),
        "objects.npz": array_of_objects(call),
        "persistent.pth": zipped({"data.pkl": _header(2) + _push(call, 2) + b"Q."}),
        "frame.pth": b"\x80\x04\x95" + struct.pack("<Q", 4) + _push(call, 4) + b".",
    }


def array_of_objects(call: Call) -> bytes:
    """NumPy's archive, whose one array is no numbers but a pickle."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + opcodes(call)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("conv1.npy", array)
    return out.getvalue()


def _named_by_inst(function: str) -> bytes:
    module, _, name = function.partition(":")
    return f"i{module}\n{name}\n".encode()


def every_pickle(canary: Path) -> Iterator[tuple[str, bytes]]:
    """All of it: (file name, content)."""
    made = calls(canary)
    for name, value in made.items():
        yield f"{name}.pth", zipped({"data.pkl": opcodes(value)})
        yield f"{name}-legacy.pth", legacy(value)
    yield from formats(made["posix.system"]).items()


# -- safetensors -------------------------------------------------------------------------------

_F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def safetensors(header: object, data: bytes = b"\0" * 8, size: int | None = None) -> bytes:
    """A safetensors file with any header: an object, or its text."""
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def crafted_safetensors() -> dict[str, Callable[[], bytes]]:
    """Files whose header lies, by what it lies about."""

    def entry(**changed: Any) -> bytes:
        return safetensors({"a": {**_F32, **changed}})

    def pair(first: list[int], second: list[int], length: int) -> bytes:
        both = {"a": {**_F32, "data_offsets": first}, "b": {**_F32, "data_offsets": second}}
        return safetensors(both, b"\0" * length)

    text = json.dumps(_F32)
    return {
        "header-2^62": lambda: safetensors({"a": _F32}, size=2**62),
        "header-2^64": lambda: safetensors({"a": _F32}, size=2**64 - 1),
        "header-negative": lambda: safetensors({"a": _F32}, size=2**63),
        "overlap": lambda: pair([0, 8], [4, 12], 12),
        "gap": lambda: pair([0, 8], [12, 20], 20),
        "tail": lambda: safetensors({"a": _F32}, b"\0" * 64),
        "beyond": lambda: entry(data_offsets=[0, 2**40], shape=[2**38]),
        "backwards": lambda: entry(data_offsets=[8, 0]),
        "negative-offset": lambda: entry(data_offsets=[-8, 0]),
        "doubled-key": lambda: safetensors(f'{{"a": {text}, "a": {text}}}'),
        "doubled-field": lambda: safetensors(f'{{"a": {text[:-1]}, "shape": [1]}}}}'),
        "shape": lambda: entry(shape=[3]),
        "shape-overflow": lambda: entry(shape=[2**32, 2**32]),
        "shape-negative": lambda: entry(shape=[-2]),
        "dtype": lambda: entry(dtype="F64"),
        "dtype-unknown": lambda: entry(dtype="PICKLE"),
        "name": lambda: safetensors({"../../x": _F32}),
        "not-json": lambda: safetensors("{'a': 1}"),
        "not-utf8": lambda: struct.pack("<Q", 4) + b'{"\xff"' + b"\0" * 8,
        "nested": lambda: safetensors('{"a":' * 10_000 + "1" + "}" * 10_000),
        "list": lambda: safetensors([1, 2]),
        "empty": lambda: b"",
        "short": lambda: b"\1\0\0",
        "million-tensors": _million,
        "metadata-50MB": lambda: safetensors({"__metadata__": {"a": "x" * 50_000_000}, "a": _F32}),
    }


def _million() -> bytes:
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return safetensors("{" + ",".join(f'"{n}":{empty}' for n in range(10**6)) + "}", b"")
