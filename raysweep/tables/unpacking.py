"""The size to which a table's file unpacks, judged before it is read.

A Parquet file of 219 KB can hold a column of 2 GB: equal values are stored once. The tables of a
sweep have measured values in each row, so they never unpack to many times their size.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_ALWAYS = 256_000_000
"""Bytes to which any file may unpack."""
_MOST_TIMES = 100
"""Larger ones may unpack to this many times their size (tables of 10,000 runs: 3 to 12)."""
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
_LENGTH = 8  # bytes for where a text begins, beside its letters


class RefusedError(Exception):
    """A file can't be used as a table; the message says what was expected and what it is."""


def expect_plausible(file: pq.FileMetaData, n_bytes: int) -> list[str]:
    """Raise ``RefusedError`` if a file of ``n_bytes`` would unpack to an implausible size.

    Return the columns of texts of which the footer can't tell that: ``read_plausible`` can.
    """
    groups = [file.row_group(i) for i in range(file.num_row_groups)]
    n_encoded = sum(group.total_byte_size for group in groups)
    # Quick, since most files are small: no text is longer than the whole file unpacked once.
    if file.num_rows * (n_encoded + 16 * file.num_columns) <= _ALWAYS:
        return []
    limit, total, doubtful = _limit(n_bytes), 0, []
    for group in groups:
        for i in range(group.num_columns):
            chunk = group.column(i)
            width = _WIDTHS.get(chunk.physical_type)
            total += chunk.num_values * (width or _LENGTH)
            if width is None:
                total += chunk.total_uncompressed_size
                doubtful.append(
                    (chunk.path_in_schema, chunk.num_values * chunk.total_uncompressed_size)
                )
    if total > limit:
        raise _too_large(n_bytes, total, limit)
    return sorted({name for name, most in doubtful if most > limit})


def read_plausible(
    file: pq.ParquetFile, content: bytes, texts: Sequence[str], columns: Sequence[str] | None
) -> pa.Table:
    """Read a file without unpacking the columns in ``texts`` before their size is known."""
    file = pq.ParquetFile(pa.BufferReader(content), read_dictionary=[*texts])
    table = file.read(columns)
    total = 0
    for name in table.column_names:
        for chunk in table[name].chunks if pa.types.is_dictionary(table[name].type) else ():
            lengths = pc.binary_length(chunk.dictionary)
            total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    if total > _limit(len(content)):
        raise _too_large(len(content), total, _limit(len(content)))
    for i, name in enumerate(table.column_names):
        kind = table[name].type
        if pa.types.is_dictionary(kind):
            table = table.set_column(i, name, table[name].cast(kind.value_type))
    return table


def _limit(n_bytes: int) -> int:
    return max(_ALWAYS, _MOST_TIMES * n_bytes)


def _too_large(n_bytes: int, total: int, limit: int) -> RefusedError:
    return RefusedError(
        f"expected a table of at most {limit / 1e6:,.0f} MB, "
        f"got {n_bytes / 1e3:,.0f} KB that unpack to {total / 1e6:,.0f} MB"
    )
