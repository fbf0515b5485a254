"""What Windows lacks is refused, or replaced, before it does harm."""

from types import SimpleNamespace
from typing import Never

import pytest
from fastapi import FastAPI

from pathors_agent.durable import worker
from pathors_agent.errors import CannotListen
from pathors_agent.server.running import serving


def forbidden(*arguments: object) -> Never:
    raise AssertionError(f"called with {arguments}")


def test_several_workers_are_refused_where_signals_cannot_stop_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "os", SimpleNamespace(name="nt"))
    monkeypatch.setattr(serving, "_listening", forbidden)

    with pytest.raises(CannotListen, match=r"one worker only.*`--workers`"):
        serving.serve(FastAPI, workers=2)


def test_no_signal_is_sent_to_another_worker_where_signal_0_is_ctrl_c(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "os", SimpleNamespace(name="nt", kill=forbidden))

    assert worker._exists(12345)
