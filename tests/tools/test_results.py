"""What a tool's value becomes for the model: the table of the docs, the cap, the schema, refusals."""

import re
import sqlite3
from array import array
from collections import Counter, OrderedDict, UserString, deque
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple
from uuid import UUID

import attrs
import msgspec
import numpy
import pandas
import pytest
import sqlalchemy
from pydantic import BaseModel, ConfigDict, Field, RootModel, SecretStr, field_serializer
from pydantic.dataclasses import dataclass as pydantic_dataclass

from counting import work_of
from pathors_agent.messages import ContentPart, ToolMessage
from pathors_agent.tools.result_values import JSONWalk
from result_types import IMAGE, SALES, Color, Place, Point, result_of, text_part

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "tool-results.md"


# - the table


class NamedPoint(NamedTuple):
    x: int
    y: float


class StructPoint(msgspec.Struct):
    x: int
    y: float


@attrs.frozen
class AttrsPoint:
    x: int
    y: float


class PolarsFrame:
    """A table with the methods of polars."""

    def __init__(self, *cells: object) -> None:
        self.cells = cells

    def __len__(self) -> int:
        return len(self.cells)

    def head(self, rows: int) -> "PolarsFrame":
        return PolarsFrame(*self.cells[:rows])

    def to_dicts(self) -> list[dict[str, object]]:
        return [{"a": cell} for cell in self.cells]

    def to_dict(self) -> dict[str, object]:
        raise NotImplementedError


class PolarsColumn:
    """A column with the methods of polars."""

    def __init__(self, *cells: object) -> None:
        self.cells = cells

    def __len__(self) -> int:
        return len(self.cells)

    def head(self, rows: int) -> "PolarsColumn":
        return PolarsColumn(*self.cells[:rows])

    def to_list(self) -> list[object]:
        return [*self.cells]


class ArrowArray:
    """An array with the methods of pyarrow."""

    def __init__(self, *items: object) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def slice(self, start: int, length: int) -> "ArrowArray":
        return ArrowArray(*self.items[start : start + length])

    def to_pylist(self) -> list[object]:
        return [*self.items]


class ArrowScalar:
    def as_py(self) -> int:
        return 3


def sqlite_row(statement: str) -> sqlite3.Row:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        row: sqlite3.Row = connection.execute(statement).fetchone()
        return row


def alchemy_row(statement: str) -> sqlalchemy.Row[Any]:
    with sqlalchemy.create_engine("sqlite://").connect() as connection:
        return connection.execute(sqlalchemy.text(statement)).one()


# For each row of the page: what a tool returns, and what the page shows for it (parts apart).
ROWS: dict[str, list[tuple[object, str | tuple[ContentPart, ...]]]] = {
    "text (`str`)": [("as it is", "as it is")],
    "`None`": [(None, "done (no value)")],
    "`bool`": [(True, "true")],
    "`int`": [(3, "3")],
    "`float`": [(0.5, "0.5")],
    "a `float` that is not finite": [(float("nan"), "NaN"), ([float("-inf")], '["-Infinity"]')],
    "`Decimal`": [(Decimal("1.50"), "1.50")],
    "`datetime`": [(datetime(2024, 2, 29, 12, 30, tzinfo=UTC), "2024-02-29T12:30:00+00:00")],
    "`date`": [(date(2024, 2, 29), "2024-02-29")],
    "`time`": [(time(12, 30), "12:30:00")],
    "`timedelta`": [(timedelta(seconds=90), "PT1M30S")],
    "`UUID`": [(UUID(int=7), "00000000-0000-0000-0000-000000000007")],
    "a path": [(PurePosixPath("/tmp/a"), "/tmp/a")],
    "a date that is missing (`NaT`, `NA`)": [
        ({"paid": pandas.NaT}, '{"paid":null}'),
        ({"paid": pandas.NA}, '{"paid":null}'),
    ],
    "a scalar of numpy": [
        ([numpy.int64(3), numpy.float32(1.5), numpy.bool_(True)], "[3,1.5,true]")
    ],
    "an array of numpy": [(numpy.array([[1, 2], [3, 4]]), "[[1,2],[3,4]]")],
    "a `Timestamp`, a `Timedelta` of pandas": [
        (pandas.Timestamp("2024-02-29"), "2024-02-29T00:00:00")
    ],
    "a `Series` of pandas": [(pandas.Series([1.5, None]), "[1.5,null]")],
    "a `Series` with labels": [(pandas.Series([1, 2], index=["a", "b"]), '{"a":1,"b":2}')],
    "a `DataFrame` of pandas": [
        (pandas.DataFrame({"a": [1, 2], "b": ["x", None]}), '[{"a":1,"b":"x"},{"a":2,"b":null}]')
    ],
    "a table of polars or pyarrow": [(PolarsFrame(1, None), '[{"a":1},{"a":null}]')],
    "a row of sqlite3, SQLAlchemy or asyncpg": [(sqlite_row("SELECT 1 AS a"), '{"a":1}')],
    "a member of an `Enum`": [(Color.RED, "red")],
    "`bytes`": [(b"\xff\x00", '{"type":"bytes","length":2,"base64":"/wA="}')],
    "a pydantic model": [
        (Place(city="Zürich", since=date(2024, 2, 29)), '{"city":"Zürich","since":"2024-02-29"}')
    ],
    "a dataclass; a class of attrs or msgspec": [
        (Point(x=1, y=2.5), '{"x":1,"y":2.5}'),
        (StructPoint(x=1, y=2.5), '{"x":1,"y":2.5}'),
        (AttrsPoint(x=1, y=2.5), '{"x":1,"y":2.5}'),
    ],
    "a tuple with names": [(NamedPoint(x=1, y=2.5), '{"x":1,"y":2.5}')],
    "a `dict`, a typed dict, any mapping": [({"a": {"b": [1, None]}}, '{"a":{"b":[1,null]}}')],
    "a `dict` with keys that are no text": [
        ({date(2024, 2, 29): 1, 2: "b"}, '{"2024-02-29":1,"2":"b"}')
    ],
    "a `list`, a `tuple`, any sequence": [(["a", (1, 2), range(2)], '["a",[1,2],[0,1]]')],
    "a set": [({"b", "a"}, '["a","b"]')],
    "a mixture of these": [
        (
            {"at": [date(2024, 2, 29)], "to": Point(x=1, y=2.5)},
            '{"at":["2024-02-29"],"to":{"x":1,"y":2.5}}',
        )
    ],
    "a `ContentPart`": [(IMAGE, (IMAGE,))],
    "a list that holds a `ContentPart`": [(["Seen:", IMAGE], (text_part("Seen:"), IMAGE))],
}


def page_rows() -> dict[str, str]:
    """Read the page's table: what a tool returns, and what the model reads."""
    lines = PAGE.read_text().splitlines()
    cells = [line.strip("|").split(" | ") for line in lines if line.startswith("| ")]
    return {row[0].strip(): row[2].strip() for row in cells[1:]}


def test_page_and_test_have_the_same_rows() -> None:
    assert list(page_rows()) == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_model_reads_the_text_in_the_row_of_the_page(row: str) -> None:
    shown = re.findall("`([^`]+)`", page_rows()[row])

    for value, content in ROWS[row]:
        message = result_of(value)
        assert message == ToolMessage(tool_call_id="call_1", content=content)
        if isinstance(content, str):
            assert content in shown


# - beside the table


class Bitter(StrEnum):
    TEA = "tea"


class Size(IntEnum):
    BIG = 2


class Text(str):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Photo(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64")
    data: bytes


class Renamed(BaseModel):
    inner: int = Field(serialization_alias="outer")


class Secret(BaseModel):
    key: SecretStr


class Written(BaseModel):
    at: date

    @field_serializer("at", when_used="json")
    def _year(self, at: date) -> int:
        return at.year


class Measured(BaseModel):
    """A model whose values pydantic does not know."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    values: Any
    more: Any = None


class Numbers(RootModel[list[int]]):
    pass


@pydantic_dataclass
class Checked:
    at: date


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("", ""),
        ([], "[]"),
        ((), "[]"),
        ({}, "{}"),
        (2**70, "1180591620717411303424"),
        (float("inf"), "Infinity"),
        (Decimal("NaN"), "NaN"),
        (Bitter.TEA, "tea"),
        (Size.BIG, "2"),
        (Text("sub"), "sub"),
        ([Text("sub")], '["sub"]'),
        (Photo(data=b"\xff\x00"), '{"data":"_wA="}'),
        (Renamed(inner=1), '{"outer":1}'),
        (SecretStr("k-123"), "**********"),
        (Secret(key=SecretStr("k-123")), '{"key":"**********"}'),
        (Written(at=date(2024, 2, 29)), '{"at":2024}'),
        (Numbers([1, 2]), "[1,2]"),
        (Measured(values=numpy.array([1, 2]), more=[numpy.int64(3)]), '{"values":[1,2],"more":[3]}'),
        (Measured(values={"s": SALES[:1]}), '{"values":{"s":[{"city":"Oslo","sold":1}]},"more":null}'),
        (Checked(at=date(2024, 2, 29)), '{"at":"2024-02-29"}'),
        (RootModel[str]("plain"), "plain"),
        (bytearray(b"\x00"), '{"type":"bytearray","length":1,"base64":"AA=="}'),
        (memoryview(b"\x00"), '{"type":"memoryview","length":1,"base64":"AA=="}'),
        (memoryview(b"abcd")[::2], '{"type":"memoryview","length":2,"base64":"YWM="}'),
        (memoryview(array("d")), '{"type":"memoryview","length":0,"base64":""}'),
        ({"a": b""}, '{"a":{"type":"bytes","length":0,"base64":""}}'),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (MappingProxyType({"a": 1}), '{"a":1}'),
        (Counter("aab"), '{"a":2,"b":1}'),
        (deque([1, 2]), "[1,2]"),
        ({"a": 1}.keys(), '["a"]'),
        ({"a": 1}.values(), "[1]"),
        ({None: 1, True: 2, 1.5: 3, Color.RED: 4}, '{"null":1,"true":2,"1.5":3,"red":4}'),
        ({UUID(int=7): 1}, '{"00000000-0000-0000-0000-000000000007":1}'),
        ({10, 9, 1.5}, "[1.5,9,10]"),
        ({1, "a", None}, '["a",1,null]'),
        ({(2, 1), (1, 2)}, "[[1,2],[2,1]]"),
        (frozenset({frozenset({1, 2}), frozenset({3})}), "[[1,2],[3]]"),
        ([None], "[null]"),
    ],
)  # fmt: skip
def test_value_is_read_as(value: object, content: str) -> None:
    assert result_of(value) == ToolMessage(tool_call_id="call_1", content=content)


class Stars(str):
    def __str__(self) -> str:
        return "***"


class Mixed(str, Enum):  # noqa: UP042  (a text of its own, which is not its value)
    TEA = "tea"


class Day(date):
    def isoformat(self) -> str:
        return "day 60"


class Instant(datetime):
    def isoformat(self, *_: Any, **__: Any) -> str:
        return "NaT"


class Hour(time):
    def isoformat(self, *_: Any, **__: Any) -> str:
        return "noon"


class Span(timedelta):
    def __str__(self) -> str:
        return "a while"


class Price(Decimal):
    def __str__(self) -> str:
        return "1.50 EUR"


class Exported:
    def to_dict(self) -> dict[str, object]:
        return {"at": numpy.int64(1)}


DAYS = numpy.array(["2024-02-29", "NaT"], dtype="datetime64[D]")


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (Stars("k-123"), "***"),
        ([Stars("k-123")], '["***"]'),
        (Mixed.TEA, "tea"),
        ({Mixed.TEA: Mixed.TEA}, '{"tea":"tea"}'),
        ([Day(2024, 2, 29), Hour(12), Span(1), Price(1)], '["day 60","noon","a while","1.50 EUR"]'),
        ({"at": Instant(1, 1, 1)}, '{"at":null}'),
        (Exported(), '{"at":1}'),
        ({numpy.int64(2): numpy.str_("a")}, '{"2":"a"}'),
        ({numpy.int64(2), numpy.int64(1)}, "[1,2]"),
        (numpy.float64(0.5), "0.5"),
        (numpy.longdouble(0.5), "0.5"),
        (numpy.array(5), "5"),
        (numpy.array([], dtype=object), "[]"),
        (numpy.array([(1, 2.5)], dtype=[("a", int), ("b", float)]), "[[1,2.5]]"),
        (numpy.ma.array([1, 2], mask=[False, True]), "[1,null]"),
        (DAYS, '["2024-02-29",null]'),
        (DAYS.astype("datetime64[ns]"), '["2024-02-29T00:00:00",null]'),
        ([numpy.timedelta64(90, "s"), numpy.timedelta64(90, "ns")], '["PT1M30S","PT0S"]'),
        (array("i", [1, 2]), "[1,2]"),
        (pandas.Timedelta("90s"), "P0DT0H1M30S"),
        (pandas.Index([1, 2]), "[1,2]"),
        (pandas.Categorical(["a", None]), '["a",null]'),
        (pandas.Period("2024-02"), "2024-02"),
        (SALES.dtypes.iloc[1:], '{"sold":"int64"}'),
        (pandas.Series([1, 2], index=["a", "a"], name="n"), '[{"index":"a","n":1},{"index":"a","n":2}]'),
        (SALES[SALES.sold > 2], '[{"index":2,"city":"Rome","sold":4}]'),
        (SALES.groupby("city").sum(), '[{"city":"Oslo","sold":3},{"city":"Rome","sold":4}]'),
        (
            SALES.groupby("city").agg({"sold": ["min", "max"]}),
            '[{"city":"Oslo","sold min":1,"sold max":2},{"city":"Rome","sold min":4,"sold max":4}]',
        ),
        (pandas.DataFrame([[1, 2]], columns=["a", "a"]), '{"columns":["a","a"],"rows":[[1,2]]}'),
        (pandas.DataFrame(), "[]"),
        (pandas.MultiIndex.from_tuples([(1, "a")]), '[[1,"a"]]'),
        (PolarsColumn(1, None), "[1,null]"),
        ({"t": ArrowArray(1, None), "s": ArrowScalar()}, '{"t":[1,null],"s":3}'),
        ([alchemy_row("SELECT 1 AS a, 'x' AS count")], '[{"a":1,"count":"x"}]'),
        ([alchemy_row("SELECT 1 AS a, 2 AS a")], "[[1,2]]"),
        ([sqlite_row("SELECT 1 AS a, 2 AS a")], "[[1,2]]"),
        (SimpleNamespace(a=1, b=date(2024, 2, 29)), '{"a":1,"b":"2024-02-29"}'),
        (UserString("as it is"), "as it is"),
    ],
)  # fmt: skip
def test_value_of_another_class_is_read_as(value: object, content: str) -> None:
    assert result_of(value) == ToolMessage(tool_call_id="call_1", content=content)


@pytest.mark.parametrize(
    "value",
    [
        numpy.zeros(10**7),
        pandas.Series(range(10**6)),
        pandas.DataFrame({"a": range(10**6), "b": 0}),
        PolarsFrame(*range(10**5)),
        ArrowArray(*range(10**5)),
    ],
    ids=["array", "series", "frame", "polars", "arrow"],
)
def test_large_table_is_read_only_as_far_as_it_is_shown(value: object) -> None:
    text = result_of(value, max_result_characters=1_000).text

    assert text.splitlines()[1].startswith("[cut: 1,000 of more than ")


def test_array_of_numbers_is_converted_at_once() -> None:
    few, many = (numpy.arange(count, dtype=numpy.int16) for count in (10, 1_000))

    assert JSONWalk(10_000).value(many) == list(range(1_000))
    lines = [work_of(partial(JSONWalk(10_000).value, each)).lines for each in (few, many)]
    assert lines[1] - lines[0] <= 12 * 990


def test_half_of_a_character_is_mended_everywhere() -> None:
    assert result_of("caf\u00e9 \ud83d!").content == "café �!"
    assert result_of({"\udc00": ["\ud83d\ude00"]}).content == '{"�":["😀"]}'
    assert result_of(Path("/a\udcff")).content == "/a�"
    assert result_of([text_part("\ud83d")]).content == (text_part("�"),)
