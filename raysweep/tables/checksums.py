"""A table's file: Parquet with a digest, so that damage is always detected.

Parquet has checksums for pages of data, but none for the metadata that describes them. We therefore
store a digest of every byte between the pages and the footer, where Parquet readers do not look.
"""

import hashlib
import io
import struct
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from raysweep.tables.unpacking import RefusedError, expect_plausible, read_plausible

_MARK = b"raysweep sha256:"
_CLAIM = b"raysweep.sealed"
_N_SEAL = len(_MARK) + hashlib.sha256().digest_size
_MAGIC = b"PAR1"
_N_TAIL = 4 + len(_MAGIC)


class DamagedError(RefusedError):
    """A file's content is damaged, in the way that ``reason`` says."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"expected a complete Parquet file, got a damaged one ({reason})")


def encode(table: pa.Table, marks: Mapping[bytes, bytes] | None = None) -> bytes:
    """Encode a table as the content of a file, with ``marks`` in its metadata."""
    sink = io.BytesIO()
    metadata = {_CLAIM: b"1", **(marks or {})}
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    content = sink.getvalue()
    pages, footer = content[: _footer(content)], content[_footer(content) :]
    return b"".join((pages, _seal(pages, footer), footer))


def decode(
    content: bytes,
    columns: Sequence[str] | None = None,
    expect: Callable[[pq.FileMetaData], object] | None = None,
) -> pa.Table:
    """Decode the table in a file's content; raise ``DamagedError`` if it is incomplete.

    ``expect`` gets the file's metadata before anything else is read, and may raise
    ``RefusedError``, as does a table that would unpack to an implausible size. A file without a
    digest, from an earlier version or from the user, is accepted.
    """
    is_sealed = check(content)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        if not is_sealed and _CLAIM in (file.metadata.metadata or {}):
            raise DamagedError("its digest is missing")
        if expect is not None:
            expect(file.metadata)
        texts = expect_plausible(file.metadata, len(content))
        # Without a digest, only reading every page can reveal damage.
        wanted = columns if is_sealed else None
        table = read_plausible(file, content, texts, wanted) if texts else file.read(wanted)
        table = table.replace_schema_metadata(None)
    except (RefusedError, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001 (pyarrow raises anything for damaged files)
        raise DamagedError(" ".join(str(error).split())[:120]) from None
    if columns is None:
        return table
    return table.select([name for name in columns if name in table.column_names])


def check(content: bytes) -> bool:
    """Verify a file's content against its digest; return whether it has one.

    Raise ``DamagedError`` if they differ.
    """
    if _MARK not in content:
        return False
    footer = _footer(content)
    seal = footer - _N_SEAL
    if content[-len(_MAGIC) :] != _MAGIC or seal < 0:
        raise DamagedError("its end is missing")
    view = memoryview(content)
    if view[seal:footer] != _seal(view[:seal], view[footer:]):
        raise DamagedError("its content does not match its digest")
    return True


def _footer(content: bytes) -> int:
    """Return the start of the footer, from its length, which precedes the final magic number."""
    (n_footer,) = struct.unpack("<I", content[-_N_TAIL : -len(_MAGIC)])
    return len(content) - _N_TAIL - int(n_footer)


def _seal(*pieces: bytes | memoryview) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return _MARK + digest.digest()
