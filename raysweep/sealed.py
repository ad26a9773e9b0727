"""Sealed files: plain values and tensors that come back exactly as written, or not at all.

A sealed file is a safetensors file whose header holds a digest of every other byte, so damage is
always found, and reading it runs no code. As torch takes seconds to import and the driver only
looks at plain values, only functions that need tensors import it.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SUFFIX = ".safetensors"

_CONTENT = "content"
"""Name of the tensor (bytes) that holds everything but the tensors, as JSON. It is not in the
header, whose size safetensors limits to 100 MB."""
_BLANK = "0" * 64
_TENSOR, _TUPLE, _ITEMS = "$tensor", "$tuple", "$items"
_N_LENGTH = 8
_MAX_HEAD = 100_000_000  # safetensors' own limit
_CHUNK = 2**24
_MALFORMED = (ValueError, LookupError, TypeError, RecursionError, AttributeError)
_NOT_WHOLE = "is damaged or incomplete"


class DamagedError(Exception):
    """A file is not sealed, or not as it was written; the message is a predicate."""


def digest_of(*parts: bytes | memoryview) -> str:
    """Return the digest of some parts, which depends on where each one ends."""
    return _new_digest(*parts).hexdigest()


def _new_digest(*parts: bytes | memoryview) -> hashlib.blake2b:
    state = hashlib.blake2b(digest_size=32)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state


def seal(value: Any) -> bytes:
    """Encode a value as the content of a sealed file.

    It may be any nesting of mappings, lists, tuples, tensors, texts, numbers, booleans and None;
    anything else raises ``TypeError``.
    """
    import torch
    from safetensors.torch import save

    found = _Tensors()
    content = json.dumps(_packed(value, "", found)).encode()
    tensors = found.by_name
    tensors[_CONTENT] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    data = save(tensors, metadata={"blake2b": _BLANK})
    head, body = _parts(data)
    assert head.count(_mark(_BLANK)) == 1
    return b"".join((head.replace(_mark(_BLANK), _mark(digest_of(head, body))), body))


class _Tensors:
    """Tensors by name, on the CPU, of which no two share memory: safetensors refuses those."""

    def __init__(self) -> None:
        self.by_name: dict[str, Tensor] = {}
        self._storages = set[int]()

    def add(self, tensor: "Tensor", path: str) -> str:
        """Add a tensor; return its name."""
        import torch

        storage = tensor.untyped_storage()
        is_view = storage.nbytes() != tensor.nbytes or not tensor.is_contiguous()
        is_view = is_view or storage.data_ptr() in self._storages
        self._storages.add(storage.data_ptr())
        name = f"{len(self.by_name)}{path}"
        form = torch.contiguous_format
        self.by_name[name] = tensor.detach().to("cpu", copy=is_view, memory_format=form)
        return name


def _packed(value: Any, path: str, tensors: _Tensors) -> Any:
    """Return a value as JSON has it; its tensors are added to ``tensors``."""
    import torch

    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        return {_TENSOR: tensors.add(value, path)}
    if isinstance(value, list | tuple):
        items = [_packed(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {_TUPLE: items}
    if isinstance(value, Mapping):
        packed = [(key, _packed(item, f"{path}/{key}", tensors)) for key, item in value.items()]
        if all(type(key) is str and not key.startswith("$") for key in value):
            return dict(packed)
        return {_ITEMS: [[_packed(key, path, tensors), item] for key, item in packed]}
    raise TypeError(f"{path or 'value'}: expected plain values and tensors, got {type(value)}")


class Sealed:
    """The content of a sealed file, verified; raise ``DamagedError`` if it is not as written."""

    def __init__(self, data: bytes) -> None:
        head, body = _parts(data)
        _expect_digest(head, len(body), [body])
        self._data = data

    @property
    def plain(self) -> Any:
        """The value with None in the place of each tensor; torch is not needed for it."""
        head, body = _parts(self._data)
        start, end = _place(head)
        return _unpacked(json.loads(bytes(body[start:end])), None)

    def value(self, device: "torch.device | str" = "cpu") -> Any:
        """Return the value, with its tensors on a device."""
        from safetensors.torch import load

        tensors = {name: tensor.to(device) for name, tensor in load(self._data).items()}
        content = tensors.pop(_CONTENT).cpu().numpy().tobytes()
        return _unpacked(json.loads(content), tensors)


def unseal(data: bytes, device: "torch.device | str" = "cpu") -> Any:
    """Return the value that ``seal`` encoded; raise ``DamagedError`` for anything else."""
    return Sealed(data).value(device)


def verify(file: IO[bytes]) -> None:
    """Raise ``DamagedError`` unless an open file is as it was written.

    Little memory is needed, whatever the file's size.
    """
    n_file = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = _head(file)
    _expect_digest(head, n_file - len(head), iter(lambda: file.read(_CHUNK), b""))


def read_plain(file: IO[bytes]) -> Any:
    """Read what ``Sealed.plain`` returns without reading, or verifying, the rest of an open file.

    Raise ``DamagedError`` if that much can be told without the digest.
    """
    try:
        n_file = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = _head(file)
        start, end = _place(head)
        if not 0 <= start <= end <= n_file:
            raise DamagedError(_NOT_WHOLE)
        file.seek(len(head) + start)
        return _unpacked(json.loads(file.read(end - start)), None)
    except _MALFORMED:
        raise DamagedError(_NOT_WHOLE) from None


def _expect_digest(head: bytes, n_body: int, body: Iterable[bytes | memoryview]) -> None:
    try:
        digest = json.loads(head[_N_LENGTH:])["__metadata__"]["blake2b"]
        blank = head.replace(_mark(digest), _mark(_BLANK), 1)
    except _MALFORMED:
        raise DamagedError(_NOT_WHOLE) from None
    state = _new_digest(blank)
    state.update(n_body.to_bytes(8, "little"))
    for part in body:
        state.update(part)
    if state.hexdigest() != digest:
        raise DamagedError(_NOT_WHOLE)


def _unpacked(packed: Any, tensors: "Mapping[str, Tensor] | None") -> Any:
    if isinstance(packed, list):
        return [_unpacked(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if _TENSOR in packed:
        return None if tensors is None else tensors[packed[_TENSOR]]
    if _TUPLE in packed:
        return tuple(_unpacked(item, tensors) for item in packed[_TUPLE])
    if _ITEMS in packed:
        pairs = packed[_ITEMS]
        return {_unpacked(key, tensors): _unpacked(item, tensors) for key, item in pairs}
    return {key: _unpacked(item, tensors) for key, item in packed.items()}


def _parts(data: bytes) -> tuple[bytes, memoryview]:
    """Return the header with its length, and the rest (not copied: it may be large)."""
    head = _head(io.BytesIO(data))
    return head, memoryview(data)[len(head) :]


def _head(file: IO[bytes]) -> bytes:
    """Read the header with its length; raise ``DamagedError`` for an impossible length."""
    length = file.read(_N_LENGTH)
    n_head = int.from_bytes(length, "little")
    if len(length) < _N_LENGTH or n_head > _MAX_HEAD:
        raise DamagedError(_NOT_WHOLE)
    return length + file.read(n_head)


def _place(head: bytes) -> tuple[int, int]:
    """Return where the content lies in the file's body, from its header."""
    start, end = json.loads(head[_N_LENGTH:])[_CONTENT]["data_offsets"]
    return int(start), int(end)


def _mark(digest: str) -> bytes:
    """Return the digest as it appears in the header."""
    return f'"blake2b":"{digest}"'.encode()
