# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Seconds by stage: stages of one name add up, none is counted twice."""

import pytest

from hf_tc.conversion import stage_clock
from hf_tc.conversion.stage_clock import StageClock


def test_time_is_that_of_the_innermost_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    # Seconds at: the start; select begins; solve begins, ends; select ends; load begins, ends; solve again; the end.
    times = iter([0.0, 1.0, 3.0, 10.0, 11.0, 20.0, 20.5, 30.0, 31.0, 40.0])
    monkeypatch.setattr(stage_clock.time, "perf_counter", lambda: next(times))
    clock = StageClock()
    with clock.stage("select"), clock.stage("solve"):
        pass
    with clock.stage("load"):
        pass
    with pytest.raises(ArithmeticError), clock.stage("solve"):
        raise ArithmeticError
    assert clock.seconds == {"select": 2.0 + 1.0, "solve": 7.0 + 1.0, "load": 0.5}
    assert list(clock.seconds) == ["select", "solve", "load"]
    assert clock.total == 40.0


def test_time_of_threads_side_by_side_is_shared_out_among_their_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(stage_clock.time, "perf_counter", lambda: now)
    clock = StageClock()
    with clock.stage("selection"):
        now = 2.0
        with clock.side_by_side(2) as clocks:
            with clocks[0].stage("capture"), clocks[1].stage("solve"):
                now = 4.0
            with clocks[0].stage("solve"):
                now = 6.0
        now = 7.0
        with clock.side_by_side(1):
            now = 9.0
    # Two seconds of capture and four of solving, in four.
    assert clock.seconds == pytest.approx({"selection": 3.0, "capture": 4 / 3, "solve": 8 / 3})
