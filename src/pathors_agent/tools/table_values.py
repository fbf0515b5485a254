"""Read values of numpy, pandas, polars, pyarrow and their like as built-in values.

They are read by their methods, and nothing of these packages is imported. The methods are looked up
in the class, because a mock has every attribute.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

# What pandas and numpy write for a missing date.
NOT_A_TIME: Final = "NaT"


class Plain(NamedTuple):
    """A built-in value, or an iterator over items; not whole if rows are left out."""

    value: Any
    is_whole: bool = True


Read = Callable[[Any, int], Plain]
"""Takes a value and the number of JSON characters that there is room for."""


def reader_of(kind: type) -> Read | None:
    """Return the function that reads values of a type, or None for an unknown type."""
    return next((read for is_known, read in _READERS if is_known(kind)), None)


def _frame(value: Any, room: int) -> Plain:
    """Read a table as its rows, with their labels unless these are row numbers."""
    rows = _head(value, room // max(len(value.columns), 1))
    if not _is_numbered(rows.index):
        rows = rows.reset_index()
    if rows.columns.nlevels > 1:
        rows.columns = [" ".join(filter(None, map(str, names))) for names in rows.columns]
    is_whole = len(rows) == len(value)
    if rows.columns.is_unique:
        return Plain(rows.to_dict("records"), is_whole)
    cells = [*rows.itertuples(index=False, name=None)]
    return Plain({"columns": rows.columns.tolist(), "rows": cells}, is_whole)


def _series(value: Any, room: int) -> Plain:
    """Read a column as a list, or as an object if its rows have labels."""
    rows = _head(value, room)
    is_whole = len(rows) == len(value)
    if _is_numbered(rows.index):
        return Plain(rows.tolist(), is_whole)
    if rows.index.is_unique and rows.index.nlevels == 1:
        return Plain(rows.to_dict(), is_whole)
    return Plain(_frame(rows.reset_index(), room).value, is_whole)


def _head(value: Any, rows: int) -> Any:
    """Return the first `rows` rows and one more, with None for missing values."""
    first = value.head(rows + 1)
    return first.astype(object).where(first.notna(), None)


def _is_numbered(index: Any) -> bool:
    """Return True if the labels of rows are only their numbers."""
    return type(index).__name__ == "RangeIndex" and (index.start, index.step) == (0, 1)


# The kinds of numbers, booleans and texts, which numpy converts together.
_BUILT_IN: Final = "biufU"


def _numpy_array(value: Any, room: int) -> Plain:
    """Read an array item by item or at once, and a scalar as a built-in value."""
    dimensions, kind = getattr(value, "ndim", 1), getattr(getattr(value, "dtype", None), "kind", "")
    if dimensions == 1 and kind and kind in _BUILT_IN and not hasattr(type(value), "isna"):
        return Plain(iter(value[: room + 1].tolist()), is_whole=len(value) <= room + 1)
    if dimensions:
        return Plain(_items(value))
    single = _moment(value) if kind in ("M", "m") else value.tolist()
    # `tolist` leaves numpy's longest floats as they are.
    return Plain(float(value) if type(single) is type(value) else single)


def _columnar(value: Any, room: int) -> Plain:
    """Read a table of polars as its rows, or a column of it as a list."""
    rows = value.head(room + 1)
    read = rows.to_dicts if hasattr(rows, "to_dicts") else rows.to_list
    return Plain(read(), is_whole=len(rows) == len(value))


def _arrow(value: Any, room: int) -> Plain:
    """Read a table of pyarrow as its rows, or an array as a list."""
    rows = value.slice(0, room + 1)
    return Plain(rows.to_pylist(), is_whole=len(rows) == len(value))


def _items(value: Any) -> Iterator[Any]:
    # An index of several levels has the method, and raises.
    if not hasattr(type(value), "isna") or getattr(value, "nlevels", 1) > 1:
        return iter(value)
    return (None if gone else item for item, gone in zip(value, value.isna(), strict=True))


def _moment(value: Any) -> Any:
    """Return a date or a duration in microseconds: `tolist` of nanoseconds is a bare number."""
    single = value.tolist()
    is_bare = isinstance(single, int)
    return value.astype(f"{value.dtype.kind}8[us]").tolist() if is_bare else single


def has_methods(*names: str) -> Callable[[type], bool]:
    """Return a check for types that have methods or attributes with these names."""
    return lambda kind: all(hasattr(kind, name) for name in names)


def _is_pandas_scalar(kind: type) -> bool:
    """Return True for the types of periods and intervals, and for the types of columns."""
    own: object = kind.__str__
    is_known = f"{kind.__module__}.".startswith(("pandas.", "numpy.dtypes."))
    return is_known and own is not object.__str__


# The first entry that knows a type reads it.
_READERS: Final[list[tuple[Callable[[type], bool], Read]]] = [
    (has_methods("to_dict", "columns", "head", "reset_index"), _frame),
    (has_methods("to_dict", "tolist", "head", "reset_index"), _series),
    (has_methods("to_dicts", "head"), _columnar),
    (has_methods("to_list", "head"), _columnar),
    (has_methods("to_pylist", "slice"), _arrow),
    (has_methods("as_py"), lambda value, _: Plain(value.as_py())),
    (has_methods("tolist"), _numpy_array),
    (has_methods("to_dict"), lambda value, _: Plain(value.to_dict())),
    (lambda kind: kind.__name__ == "NAType", lambda value, _: Plain(None)),
    (_is_pandas_scalar, lambda value, _: Plain(str(value))),
]
