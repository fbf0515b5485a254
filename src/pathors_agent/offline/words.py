"""What the stand-in model knows of words: stems, stop words, numbers and names of units."""

import re

STOP_WORDS = frozenset(
    """
    a about after again all also am an and any are as at back be been both but by can could did do
    does each else for from get gives give had has have hello help hey hi how i if in into is it
    its just know let like long many may me more much my need not now of off ok okay on one only
    or our out per please same say she should show so some sure tell than thank thanks that the
    their them then there these they this those to too up us use using very want was we what
    whats when where which who why will with would you your he her his no yes
    """.split()  # noqa: SIM905  (a list of words reads better as a text)
)

PREPOSITIONS = frozenset("about at for from in into near of on to with".split())  # noqa: SIM905

NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
        fifteen sixteen seventeen eighteen nineteen twenty""".split()  # noqa: SIM905  (as above)
    )
} | {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "hundred": 100, "dozen": 12}

# Each row holds names of one unit; a prompt may use any where a tool's enum has another.
_UNITS = """
    mm millimeter millimetre
    cm centimeter centimetre
    m meter metre
    km kilometer kilometre
    inch inches in
    foot feet ft
    yard yd
    mile mi
    mg milligram
    g gram
    kg kilogram kilo
    tonne ton t
    ounce oz
    pound lb lbs
    celsius c °c centigrade
    fahrenheit f °f
    kelvin k
    ml milliliter millilitre
    l liter litre
    second sec s
    minute min
    hour hr h
    day d
    week wk
    bit
    byte b
    kilobyte kb
    megabyte mb
    gigabyte gb
    terabyte tb
    kibibyte kib
    mebibyte mib
    gibibyte gib
    usd dollar $
    eur euro €
    gbp £
"""
_SAME_UNIT = {name: row.split() for row in _UNITS.splitlines() for name in row.split()}

# Typographic characters, and the plain ones that are looked for: quotes, minus, times, division.
_PLAIN = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2212": "-",
        "\u00d7": "*",
        "\u00f7": "/",
        "\0": " ",
    }
)

_SAME_STEM = {"plus": "add", "sum": "add", "minus": "subtract"}

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def plain(text: str) -> str:
    """Write typographic quotes and signs as the plain ones."""
    return text.translate(_PLAIN)


def words(text: str) -> list[str]:
    """Give the words of a text or an identifier in lower case, without stop words."""
    found = _WORD.findall(_CAMEL.sub(" ", text).replace("_", " "))
    return [word for word in map(str.lower, found) if word.replace("'", "") not in STOP_WORDS]


def stems(text: str) -> set[str]:
    """Give the words of a text, cut down so that forms of one word are equal."""
    return {stem(word) for word in words(text)}


def stem(word: str) -> str:
    """Cut the ending off an English word, roughly."""
    word = _SAME_STEM.get(word, word)
    for ending in ("'s", "ations", "ation", "ators", "ator", "ings", "ing", "ies", "ate", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)].rstrip("e")
    for ending in ("es", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)]
    return word


def same_unit(name: str) -> list[str]:
    """Give every known name of the unit, its own included."""
    return [name, *_SAME_UNIT.get(name.lower(), ())]


def readable(identifier: str) -> str:
    """Write an identifier as words."""
    return _CAMEL.sub(" ", identifier).replace("_", " ").replace("-", " ").lower()
