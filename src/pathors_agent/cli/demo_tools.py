"""Three tools of real use: arithmetic, units, and the time in a city."""

import ast
import operator
import re
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Decimal, DivisionByZero, InvalidOperation, Overflow, localcontext
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pathors_agent.errors import ToolError
from pathors_agent.tools.tool import tool

# Seconds between two words of the demo's answers: about as fast as people read.
PACE = 0.015

INSTRUCTIONS = (
    "Use the tools for every calculation, conversion and time, several at once where that is"
    " possible. Answer in one or two plain sentences, without markup."
)

# Enough digits for 2 ** 128 to be exact; an inexact result is shown with fewer.
DIGITS = 50
SHOWN_DIGITS = 12

# Bounds that keep any calculation far below a millisecond.
MAX_EXPRESSION = 300
MAX_EXPONENT = 1_000
MAX_DIGITS_BEFORE_POINT = 10_000

_ARITHMETIC = re.compile(r"(?:[\d\s.+\-*/%()]|(?<=[\d.])[eE](?=[-+\d]))+")

_OPERATORS: dict[type[ast.operator], Callable[[Decimal, Decimal], Decimal]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: lambda a, b: a - b * (a / b).to_integral_value(ROUND_FLOOR),
}

Unit = Literal[
    "mm", "cm", "m", "km", "inch", "foot", "yard", "mile",
    "mg", "g", "kg", "tonne", "ounce", "pound",
    "celsius", "fahrenheit", "kelvin",
    "ml", "liter", "gallon",
    "bit", "byte", "kilobyte", "megabyte", "gigabyte", "terabyte",
    "kibibyte", "mebibyte", "gibibyte",
    "second", "minute", "hour", "day", "week",
    "km/h", "mph", "knot",
]  # fmt: skip

# Each unit in the first unit of its quantity; all are exact by definition (the gallon is the US
# gallon).
_FACTORS: dict[str, dict[str, str]] = {
    "length": {
        "m": "1", "mm": "0.001", "cm": "0.01", "km": "1000",
        "inch": "0.0254", "foot": "0.3048", "yard": "0.9144", "mile": "1609.344",
    },
    "mass": {
        "kg": "1", "mg": "0.000001", "g": "0.001", "tonne": "1000",
        "ounce": "0.028349523125", "pound": "0.45359237",
    },
    "volume": {"liter": "1", "ml": "0.001", "gallon": "3.785411784"},
    "data": {
        "byte": "1", "bit": "0.125", "kilobyte": "1e3", "megabyte": "1e6", "gigabyte": "1e9",
        "terabyte": "1e12", "kibibyte": "1024", "mebibyte": "1048576", "gibibyte": "1073741824",
    },
    "time": {"second": "1", "minute": "60", "hour": "3600", "day": "86400", "week": "604800"},
    "speed": {"km/h": "1", "mph": "1.609344", "knot": "1.852"},
}  # fmt: skip
_QUANTITIES = {unit: name for name, units in _FACTORS.items() for unit in units}

# Kelvin = (degrees + shift) * step.
_TEMPERATURES = {
    "kelvin": (Decimal(0), Decimal(1)),
    "celsius": (Decimal("273.15"), Decimal(1)),
    "fahrenheit": (Decimal("459.67"), Decimal(5) / Decimal(9)),
}

_ZONES = {
    "Africa": "Cairo Casablanca Johannesburg Lagos Nairobi",
    "America": "Bogota Chicago Denver Halifax Los_Angeles Mexico_City New_York Sao_Paulo Toronto"
    " Vancouver",
    "Asia": "Bangkok Dubai Hong_Kong Jakarta Jerusalem Karachi Kolkata Manila Seoul Shanghai"
    " Singapore Taipei Tehran Tokyo",
    "Atlantic": "Reykjavik",
    "Australia": "Melbourne Perth Sydney",
    "Europe": "Amsterdam Athens Berlin Dublin Helsinki Istanbul Kyiv Lisbon London Madrid Oslo"
    " Paris Prague Rome Stockholm Vienna Warsaw Zurich",
    "Pacific": "Auckland Honolulu",
}
_CITIES = {
    city.replace("_", " ").lower(): f"{region}/{city}"
    for region, cities in _ZONES.items()
    for city in cities.split()
} | {
    "beijing": "Asia/Shanghai",
    "delhi": "Asia/Kolkata",
    "mumbai": "Asia/Kolkata",
    "san francisco": "America/Los_Angeles",
    "washington": "America/New_York",
}

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Read the clock."""
    return datetime.now(UTC)


def demo_tools(*, now: Clock = utc_now) -> list[Callable[..., str]]:
    """Return the three tools; `now` is the clock of `local_time`."""

    @tool
    def local_time(city: str) -> str:
        """Return the date and the time in a city.

        Args:
            city: The city's English name, such as "Tokyo".
        """
        name, zone = _found(city)
        return f"In {name} it is {now().astimezone(zone):%A %Y-%m-%d %H:%M (%Z)}."

    return [calculate, convert, local_time]


@tool
def calculate(expression: str) -> str:
    """Calculate the value of an arithmetic expression.

    Args:
        expression: Numbers with + - * / % ** and parentheses, such as "2 * (3.5 + 1) ** 2".
    """
    with _decimals():
        result = shown(_value(_parsed(expression), expression.strip()))
        return f"{' '.join(expression.split())} = {result}"


@tool
def convert(value: Decimal, unit: Unit, to: Unit) -> str:
    """Convert a measured value to another unit.

    Args:
        value: How many of `unit`.
        unit: The unit the value has.
        to: The unit that is wanted.
    """
    with _decimals():
        if unit in _TEMPERATURES and to in _TEMPERATURES:
            result = _temperature(value, unit, to)
        else:
            result = value * _factor(unit, to)
        return f"{shown(value)} {unit} = {shown(result)} {to}"


def shown(number: Decimal) -> str:
    """Write a number without needless digits."""
    if number == number.to_integral_value() and number.adjusted() < DIGITS:
        return f"{number:.0f}" if number else "0"
    with localcontext(prec=SHOWN_DIGITS):
        rounded = (+number).normalize()
    return f"{rounded:f}" if -SHOWN_DIGITS < rounded.adjusted() < DIGITS else f"{rounded:e}"


@contextmanager
def _decimals() -> Iterator[None]:
    """Calculate with many digits; raise `ToolError` for results that do not exist."""
    bound = MAX_DIGITS_BEFORE_POINT
    with localcontext(prec=DIGITS, Emax=bound, Emin=-bound):
        try:
            yield
        except DivisionByZero:
            raise ToolError("A division by zero has no result.") from None
        except Overflow:
            raise ToolError(f"The result has more than {bound} digits.") from None
        except InvalidOperation:
            raise ToolError("The expression has no result.") from None


def _parsed(expression: str) -> ast.expr:
    if len(expression) > MAX_EXPRESSION:
        raise ToolError(f"The expression is longer than {MAX_EXPRESSION} characters.")
    if not _ARITHMETIC.fullmatch(expression):
        raise ToolError("Only numbers, + - * / % ** and parentheses can be used.")
    try:
        return ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, MemoryError, RecursionError):
        raise ToolError("The expression cannot be read as arithmetic.") from None


def _value(node: ast.expr, source: str) -> Decimal:
    match node:
        case ast.Constant():
            # The digits in the text, not the float that Python made of them.
            return Decimal(ast.get_source_segment(source, node) or "")
        case ast.UnaryOp(op=sign, operand=operand):
            value = _value(operand, source)
            return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left, source), _value(right, source))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, source), _value(right, source))
        case _:
            raise ToolError("The expression cannot be read as arithmetic.")


def _power(base: Decimal, exponent: Decimal) -> Decimal:
    if abs(exponent) > MAX_EXPONENT:
        raise ToolError(f"The exponent is larger than {MAX_EXPONENT}.")
    if not base and exponent < 0:
        raise DivisionByZero
    return base**exponent


def _temperature(value: Decimal, unit: str, to: str) -> Decimal:
    shift, step = _TEMPERATURES[unit]
    target_shift, target_step = _TEMPERATURES[to]
    kelvin = (value + shift) * step
    if kelvin < 0:
        raise ToolError("There is no temperature below absolute zero.")
    return kelvin / target_step - target_shift


def _factor(unit: str, to: str) -> Decimal:
    quantity, wanted = (_QUANTITIES.get(each, "temperature") for each in (unit, to))
    if quantity != wanted:
        raise ToolError(f"A {quantity} ({unit}) cannot be converted to a {wanted} ({to}).")
    factors = _FACTORS[quantity]
    return Decimal(factors[unit]) / Decimal(factors[to])


def _found(city: str) -> tuple[str, ZoneInfo]:
    """Return a city's name as in the table, and its time zone."""
    plain = _plain(city)
    if plain not in _CITIES:
        known = ", ".join(sorted(_CITIES)).title()
        raise ToolError(f"The time in {city} is unknown. Known cities: {known}.")
    try:
        return plain.title(), ZoneInfo(_CITIES[plain])
    except ZoneInfoNotFoundError:
        raise ToolError(
            "This machine has no time zone data; install the Python package tzdata."
        ) from None


def _plain(city: str) -> str:
    """Write a name without case and accents."""
    parts = unicodedata.normalize("NFKD", city.strip().casefold())
    return "".join(part for part in parts if not unicodedata.combining(part))
