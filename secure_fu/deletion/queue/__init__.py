"""The durable queue that requests wait in, and the windows at which they are executed together."""

from __future__ import annotations

from secure_fu.deletion.queue.entries import Change, Entry, Reading, Skip, State, Submission, Window, WindowState
from secure_fu.deletion.queue.file import ServiceLock
from secure_fu.deletion.queue.queue import RequestQueue
from secure_fu.deletion.queue.windows import Risk, WindowPlan, forecast, last_due, next_due, plan_window

__all__ = [
    "Change",
    "Entry",
    "Reading",
    "RequestQueue",
    "Risk",
    "ServiceLock",
    "Skip",
    "State",
    "Submission",
    "Window",
    "WindowPlan",
    "WindowState",
    "forecast",
    "last_due",
    "next_due",
    "plan_window",
]
