"""Conditions that start a run: a new span, an alarm with labels, a schedule, or a run that failed. Pure functions."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

from components.stored import Stored

SPAN, ALARM, SCHEDULE, RETRY = "new span", "alarm", "schedule", "retry"
MOST_ATTEMPTS = 3
# Before the second and the third attempt, seconds.
_PAUSES_S = (60.0, 600.0)
FAILED = 1


class WatchState(Stored):
    """The state of a watcher, which survives restarts.

    Attributes:
      span: Number and version of the newest span that a run was started for; None before the first.
      alarm: Time of the last alarm that a run was started for, seconds since 1970.
      noted_alarm: The same for the last alarm that was reported as without labels.
      started: When the last run started, seconds since 1970; 0 if there was none.
      running: Whether it has not ended: after a restart it counts as failed.
      exit_code: That of the last run; None if there was none.
      attempts: Number of runs in a row that failed.
    """

    FILE: ClassVar[str] = "watch.json"

    format: Literal[1] = 1
    span: tuple[int, int] | None = None
    alarm: float = 0.0
    noted_alarm: float = 0.0
    started: float = 0.0
    running: bool = False
    exit_code: int | None = None
    attempts: int = 0


class Observed(NamedTuple):
    """The reasons for a run that exist now.

    Attributes:
      now: Seconds since 1970.
      span: Number and version of the newest span; None if the dataset has no spans.
      alarm: Time of the alarm of the served version, seconds since 1970; None without an alarm.
    """

    now: float
    span: tuple[int, int] | None = None
    alarm: float | None = None


class Trigger(NamedTuple):
    """Why a run starts.

    Attributes:
      kind: `new span`, `alarm`, `schedule` or `retry`.
      text: The reason in words.
    """

    kind: str
    text: str


def find(state: WatchState, observed: Observed, every_s: float | None) -> Trigger | None:
    """Decides whether a run starts; of several reasons, the first counts.

    An alarm is a reason only together with labels, which arrive as a new span: `alarm_is_open` decides whether
    the watcher searches for them. A run that a gate refused is not repeated for the same images: the result would be
    the same.

    Args:
      state: From before.
      observed: Now.
      every_s: Seconds between the starts of runs; None without a schedule.
    """
    if observed.span is not None and (state.span is None or observed.span > state.span):
        reason = f", and {ALARM} of the served version" if alarm_is_open(state, observed) else ""
        return Trigger(SPAN, f"span {observed.span[0]} is new{reason}")
    if state.exit_code == FAILED and 0 < state.attempts < MOST_ATTEMPTS:
        if observed.now - state.started >= _PAUSES_S[state.attempts - 1]:
            return Trigger(RETRY, f"the last run failed (attempt {state.attempts + 1} of {MOST_ATTEMPTS})")
    if every_s is not None and observed.now - state.started >= every_s:
        return Trigger(SCHEDULE, "the schedule")
    return None


def alarm_is_open(state: WatchState, observed: Observed) -> bool:
    """Whether the served version has an alarm for which no run was started."""
    return observed.alarm is not None and observed.alarm > state.alarm


def started(state: WatchState, observed: Observed) -> WatchState:
    """Returns the state when a run starts."""
    changes = {"started": observed.now, "running": True, "span": observed.span or state.span}
    if observed.alarm is not None:
        changes["alarm"] = max(state.alarm, observed.alarm)
    return state.model_copy(update=changes)


def ended(state: WatchState, exit_code: int) -> WatchState:
    """Returns the state when a run ends."""
    attempts = state.attempts + 1 if exit_code == FAILED else 0
    return state.model_copy(update={"running": False, "exit_code": exit_code, "attempts": attempts})


def resumed(state: WatchState) -> WatchState:
    """Returns the state after a restart: a run that had not ended was interrupted."""
    return ended(state, FAILED) if state.running else state
