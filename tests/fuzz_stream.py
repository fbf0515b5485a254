"""A fuzzer's target: bytes that a server may send, in two cuttings.

Run by `test_fuzz.py` for a short while; by hand for as long as you like:

    python tests/fuzz_stream.py [libFuzzer options] [folder of seeds]
"""

import sys

import atheris

with atheris.instrument_imports(include=["pathors_agent"]):
    from pathors_agent.errors import TransportError
    from pathors_agent.wire.response_stream import ResponseStream


def outcome(pieces: list[bytes]) -> object:
    """What becomes of an answer: its message, or the kind of our error; anything else is a bug."""
    stream = ResponseStream(max_event_bytes=4096, max_message_bytes=8192, max_arguments_bytes=2048)
    for piece in pieces:
        stream.feed(piece)
    try:
        return stream.finish().model_dump()
    except TransportError as error:
        return type(error)


def one_input(data: bytes) -> None:
    """Read one body whole, and cut at steps that its first byte says."""
    if not data:
        return
    step, body = 1 + data[0] % 40, data[1:]
    whole = outcome([body])
    cut = outcome([body[i : i + step] for i in range(0, len(body), step)])
    # Which of two failures is met first may depend on the cut; whether there is a message may not.
    if isinstance(whole, dict) or isinstance(cut, dict):
        assert whole == cut, (whole, cut)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
