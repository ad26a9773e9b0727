"""A table's file: Parquet under a digest, so that no damage goes unseen.

Parquet has checksums for pages of data, none for what says where and what they are. So there is a
digest of every byte, between the pages and the footer, where readers of Parquet do not look.
"""

import hashlib
import io
import struct
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

_MARK = b"raysweep sha256:"
_CLAIM = b"raysweep.sealed"
_N_SEAL = len(_MARK) + hashlib.sha256().digest_size
_MAGIC = b"PAR1"
_N_TAIL = 4 + len(_MAGIC)


class DamagedError(Exception):
    """Say what is wrong with a file's content."""


def encode(table: pa.Table) -> bytes:
    """Return the content of a table's file."""
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_CLAIM: b"1"}), sink, compression="zstd")
    content = sink.getvalue()
    pages, footer = content[: _footer(content)], content[_footer(content) :]
    return b"".join((pages, _seal(pages, footer), footer))


def decode(content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table in a file's content; raise ``DamagedError`` if that is not whole.

    A file without a digest, of an earlier version or of the user's, is taken as it is.
    """
    is_sealed = check(content)
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        if not is_sealed and _CLAIM in (file.metadata.metadata or {}):
            raise DamagedError("its digest is gone")
        # Without a digest only a look at every page shows damage.
        table = file.read(columns=columns if is_sealed else None).replace_schema_metadata(None)
    except (DamagedError, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001 (pyarrow raises anything at damage)
        raise DamagedError(" ".join(str(error).split())[:120]) from None
    if columns is None:
        return table
    return table.select([name for name in columns if name in table.column_names])


def check(content: bytes) -> bool:
    """Check a file's content against its digest; return whether it has one.

    Raises ``DamagedError`` if they differ.
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
    """Return where the footer starts, going by the length before the last magic number."""
    (n_footer,) = struct.unpack("<I", content[-_N_TAIL : -len(_MAGIC)])
    return len(content) - _N_TAIL - int(n_footer)


def _seal(*pieces: bytes | memoryview) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return _MARK + digest.digest()
