"""Read values of numpy, pandas and their like as Python's own, by their methods. Pure.

Nothing of these packages is imported. The methods are looked up in the class, because a mock has
every attribute that it is asked for.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

# What pandas and numpy write for a date that is missing.
NOT_A_TIME: Final = "NaT"


class Plain(NamedTuple):
    """A value of Python's own, or an iterator over one's items; not whole if rows are left out."""

    value: Any
    is_whole: bool = True


Read = Callable[[Any, int], Plain]
"""Takes a value, and how many characters of JSON there is room for."""


def reader_of(kind: type) -> Read | None:
    """Return what reads values of a type, or None for a type that is not known."""
    return next((read for is_known, read in _READERS if is_known(kind)), None)


def _frame(value: Any, room: int) -> Plain:
    """Read a table as its rows, with their labels where these are not their places."""
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
    """Read a column as a list, or as an object where its rows have labels."""
    rows = _head(value, room)
    is_whole = len(rows) == len(value)
    if _is_numbered(rows.index):
        return Plain(rows.tolist(), is_whole)
    if rows.index.is_unique and rows.index.nlevels == 1:
        return Plain(rows.to_dict(), is_whole)
    return Plain(_frame(rows.reset_index(), room).value, is_whole)


def _head(value: Any, rows: int) -> Any:
    """Return the first rows, and one more, with None for values that are missing."""
    first = value.head(rows + 1)
    return first.astype(object).where(first.notna(), None)


def _is_numbered(index: Any) -> bool:
    """Whether the labels of rows are only their places."""
    return type(index).__name__ == "RangeIndex" and (index.start, index.step) == (0, 1)


def _array(value: Any, room: int) -> Plain:
    """Read an array item by item, and a scalar as what it is in Python."""
    if getattr(value, "ndim", 1):
        return Plain(_items(value))
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    single = _moment(value) if kind in ("M", "m") else value.tolist()
    # numpy's longest floats are none of Python's.
    return Plain(float(value) if type(single) is type(value) else single)


def _items(value: Any) -> Iterator[Any]:
    if not hasattr(type(value), "isna"):
        return iter(value)
    return (None if gone else item for item, gone in zip(value, value.isna(), strict=True))


def _moment(value: Any) -> Any:
    """Return a date or a duration in microseconds: in nanoseconds `tolist` is a bare number."""
    single = value.tolist()
    is_bare = isinstance(single, int)
    return value.astype(f"{value.dtype.kind}8[us]").tolist() if is_bare else single


def _has(*names: str) -> Callable[[type], bool]:
    return lambda kind: all(hasattr(kind, name) for name in names)


def _is_pandas_scalar(kind: type) -> bool:
    """Whether a type is that of a period, an interval or the type of a column."""
    own: object = kind.__str__
    is_known = f"{kind.__module__}.".startswith(("pandas.", "numpy.dtypes."))
    return is_known and own is not object.__str__


# The first that knows a type reads it.
_READERS: Final[list[tuple[Callable[[type], bool], Read]]] = [
    (_has("to_dict", "columns", "head", "reset_index"), _frame),
    (_has("to_dict", "tolist", "head", "reset_index"), _series),
    (_has("tolist"), _array),
    (_has("to_dict"), lambda value, _: Plain(value.to_dict())),
    (lambda kind: kind.__name__ == "NAType", lambda value, _: Plain(None)),
    (_is_pandas_scalar, lambda value, _: Plain(str(value))),
]
