"""T11: the value of a call's arguments after each delta, while they stream."""

from collections.abc import Sequence
from functools import partial

import pydantic_core

from benchmarks import corpora
from benchmarks.results import Measured, Row, Settings
from benchmarks.rounds import Timings, measure
from pathors_agent.wire.partial_json import PartialJSON

NAME = "partial_arguments"

OURS = "PartialJSON"
PEER = "pydantic_core.from_json"
GOALS = {20_000: 25, 200_000: 400}
# The peer reads every so manieth prefix, and its time is taken times as many: at 200 KB a whole
# pass takes 20 seconds.
SAMPLED = {20_000: 2, 200_000: 25}


def run(settings: Settings) -> Measured:
    measured = Measured()
    timings = {size: _beside_peer(settings, size) for size in _sizes(settings)}
    for (size, timing), goal in zip(timings.items(), GOALS.values(), strict=True):
        values = [ratio * _sampled(size) for ratio in timing.ratio(PEER, OURS)]
        what = f"re-parsing with pydantic_core / PartialJSON: {size // 1000} KB"
        measured.rows.append(Row("T11", what, values, goal, at_least=True))
    small, large = _sizes(settings)
    growth = _beside_each_other(settings, small, large)
    what = f"time for {large // 1000} KB / {small // 1000} KB, per character"
    measured.rows.append(Row("T11", what, growth, 1.5))
    return measured


def _sizes(settings: Settings) -> tuple[int, int]:
    return (2_000, 20_000) if settings.quick else (20_000, 200_000)


def _sampled(size: int) -> int:
    return SAMPLED.get(size, 1)


def _beside_peer(settings: Settings, size: int) -> Timings:
    pieces = _pieces(size)
    value = pydantic_core.from_json("".join(pieces))
    contenders = {
        OURS: partial(read_as_it_comes, pieces),
        PEER: partial(read_again_and_again, pieces, _sampled(size)),
    }
    bout = f"partial arguments, {size} characters"
    return measure(bout, contenders, rounds=settings.rounds, check=lambda got: got == value)


def _beside_each_other(settings: Settings, small: int, large: int) -> list[float]:
    texts = {size: _pieces(size) for size in (small, large)}
    contenders = {str(size): partial(read_as_it_comes, pieces) for size, pieces in texts.items()}
    timings = measure(
        "growth of partial arguments",
        contenders,
        rounds=settings.rounds_of_fast,
        check=lambda got: isinstance(got, dict) and got["summary"] == "end",
    )
    lengths = {size: len("".join(pieces)) for size, pieces in texts.items()}
    scale = lengths[small] / lengths[large]
    return [ratio * scale for ratio in timings.ratio(str(large), str(small))]


def _pieces(size: int) -> list[str]:
    text = corpora.arguments_text(size)
    step = corpora.PIECE_CHARACTERS
    return [text[at : at + step] for at in range(0, len(text), step)]


def read_as_it_comes(pieces: Sequence[str]) -> object:
    parser = PartialJSON()
    value: object = None
    for piece in pieces:
        parser.feed(piece)
        value = parser.value
    return value


def read_again_and_again(pieces: Sequence[str], sampled: int) -> object:
    """Parse the prefix after every `sampled`th piece, and after the last."""
    prefix = ""
    value = None
    for number, piece in enumerate(pieces, 1):
        prefix += piece
        if number % sampled == 0:
            value = pydantic_core.from_json(prefix, allow_partial="trailing-strings")
    return value if len(pieces) % sampled == 0 else pydantic_core.from_json(prefix)
