"""Find the arithmetic in a sentence and write it as an expression."""

import re

# Not arithmetic, although full of digits and dashes.
_DATE_OR_TIME = re.compile(r"\b\d{4}-\d{1,2}-\d{1,2}\b|\b\d{1,2}:\d{2}\b")

_NUMBER = r"-?\d+(?:\.\d+)?"

_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=\d),(?=\d{3}\b)", ""),
        (r"\^", "**"),
        (r"(?<=\d)\s*x\s*(?=\d)", " * "),
        (rf"\badd ({_NUMBER}) (?:and|to|with) ({_NUMBER})", r"\1 + \2"),
        (rf"\bsum of ({_NUMBER}) and ({_NUMBER})", r"\1 + \2"),
        (rf"\bsubtract ({_NUMBER}) from ({_NUMBER})", r"\2 - \1"),
        (rf"\bmultiply ({_NUMBER}) (?:by|and|with) ({_NUMBER})", r"\1 * \2"),
        (rf"\bproduct of ({_NUMBER}) and ({_NUMBER})", r"\1 * \2"),
        (rf"\bdivide ({_NUMBER}) by ({_NUMBER})", r"\1 / \2"),
        (rf"({_NUMBER})\s*(?:%|percent|per cent) of ({_NUMBER})", r"\1 / 100 * \2"),
        (rf"\bhalf of ({_NUMBER})", r"\1 / 2"),
        (rf"\b(?:double|twice) ({_NUMBER})", r"2 * \1"),
        (r"\bto the power of\b", "**"),
        (r"\b(?:multiplied by|times)\b", "*"),
        (r"\b(?:divided by|over)\b", "/"),
        (r"\bplus\b", "+"),
        (r"\bminus\b", "-"),
        (r"\b(?:modulo|mod)\b", "%"),
        (r"\bsquared\b", "** 2"),
        (r"\bcubed\b", "** 3"),
    )
]

_EXPRESSION = re.compile(r"[-(]*\d[\d.\s()+\-*/%]*[\d)]")
_OPERATOR = re.compile(r"\d\)*\s*(?:[+\-/%]|\*\*?)\s*[-(]*\d")
_CONTINUED = re.compile(
    r"^\s*(?:(?:and|then|now)\s+)?(?=(?:plus|minus|times|divided|multiplied)\b|[+*/])",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"\b(?:that|this|it|the result|the answer)\b", re.IGNORECASE)


def find_expression(sentence: str, *, last_number: str | None = None) -> str | None:
    """Give the first expression in a sentence; "that" and "it" stand for `last_number`."""
    text = _DATE_OR_TIME.sub(";", sentence)
    found = _expression(text)
    if found is None and last_number is not None:
        text = _CONTINUED.sub(f"{last_number} ", text)
        found = _expression(_REFERENCE.sub(last_number, text))
    return found


def last_number(text: str) -> str | None:
    """Give the number of a text that is a number, maybe with a unit, maybe after "="."""
    value = text.rpartition("=")[2].strip()
    found = re.fullmatch(rf"[^\w\s-]?({_NUMBER})(?:\s*[^\d\s]+)?", value)
    return found and found.group(1)


def _expression(text: str) -> str | None:
    text = text.lower()
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    for found in _EXPRESSION.finditer(text):
        expression = " ".join(found.group().split())
        if _OPERATOR.search(expression) and _balanced(expression):
            return expression
    return None


def _balanced(expression: str) -> bool:
    return expression.count("(") == expression.count(")")
