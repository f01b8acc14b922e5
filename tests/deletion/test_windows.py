"""Which window is due, what goes into it, and which deadlines are in danger."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queue_cast import DAY, NOW, policy

from secure_fu.deletion import Entry, Scope, State, forecast, last_due, next_due, plan_window
from secure_fu.deletion.times import time_text


def entry(received=NOW - DAY, deadline=NOW + 30 * DAY, signer="alder") -> Entry:
    return Entry(
        request_id=os.urandom(16),
        signer=signer,
        scope=Scope.RECORDS,
        client=signer,
        units=1,
        submitted=received,
        deadline=deadline,
        disclose=False,
        state=State.ACCEPTED,
        received=received,
        flag="",
        window=None,
    )


def test_windows_are_due_at_fixed_times():
    fixed = policy(window_start=1000, window_seconds=100)
    assert [last_due(fixed, now) for now in (0, 999, 1000, 1099, 1100)] == [None, None, 1000, 1000, 1100]
    assert [next_due(fixed, now) for now in (0, 999, 1000, 1099, 1100)] == [1000, 1000, 1100, 1100, 1200]


@given(
    st.integers(1, 6),
    st.integers(0, 6),
    st.booleans(),
    st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 9)), max_size=15),
)
def test_no_batch_is_smaller_than_the_minimum(minimum, more, cover, times):
    chosen = policy(minimum_batch=minimum, maximum_batch=minimum + more, cover=cover, hidden_units=int(cover))
    waiting = [entry(NOW + received, NOW + 10 * deadline) for received, deadline in times]
    plan = plan_window(chosen, waiting, NOW)
    count = len(plan.requests)
    in_time = [one for one in waiting if one.received <= NOW]
    assert count == 0 or minimum <= count <= minimum + more
    assert (count == 0) is (len(in_time) < minimum)
    assert bool(plan.skipped) is (count == 0 and not cover)
    # Nearest deadlines go first, and what came later waits.
    left = [one.deadline for one in in_time if one.request_id not in plan.requests]
    taken = [one.deadline for one in in_time if one.request_id in plan.requests]
    assert len(taken) == count
    assert count == 0 or not left or max(taken) <= min(left)


@given(
    st.integers(1, 4),
    st.lists(
        st.sampled_from(("alder", "birch", "cedar", "dogwood", "elm", "fir")), min_size=1, max_size=6, unique=True
    ),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=60),
)
def test_nobody_is_kept_waiting_by_others(maximum, signers, flood):
    """However much comes, and with whatever deadlines: a turn comes within as many windows as a round of turns has."""
    chosen = policy(minimum_batch=1, maximum_batch=maximum)
    own = entry(NOW, NOW + 400 * DAY, "willow")  # the latest deadline of all
    waiting, served = [own], {}
    for window in range(-(-(len(signers) + 1) // maximum)):
        # In every window, new ones that are due at once, from everybody else.
        waiting += [entry(NOW, NOW + deadline, signers[who % len(signers)]) for who, deadline in flood]
        waiting += [entry(NOW, NOW + 1, signer) for signer in signers]
        taken = plan_window(chosen, waiting, NOW + window, served=served).requests
        assert len(taken) == min(maximum, len(waiting))
        served |= {one.signer: NOW + window for one in waiting if one.request_id in taken}
        waiting = [one for one in waiting if one.request_id not in taken]
    assert own not in waiting


def test_signers_take_turns():
    many = [entry(deadline=NOW + 100 * number, signer="alder") for number in range(1, 8)]
    few = [entry(deadline=NOW + DAY + number, signer="birch") for number in range(2)]
    plan = plan_window(policy(), [*few, *many], NOW)
    assert plan.requests == tuple(one.request_id for one in (many[0], few[0], many[1], few[1], many[2]))
    first = plan_window(policy(maximum_batch=2, minimum_batch=1), [*few, *many], NOW, served={"alder": NOW - DAY})
    assert first.requests == (few[0].request_id, many[0].request_id)


def risks(waiting, now=NOW, first=NOW + DAY, **changes):
    chosen = policy(**({"execution_seconds": 3600} | changes))
    return {risk.request_id: risk for risk in forecast(chosen, waiting, now=now, first=first)}


def test_deadlines_that_can_be_met_are_not_in_danger():
    assert risks([entry(deadline=NOW + DAY + 3600), entry()]) == {}


def test_a_deadline_before_the_next_window_ends_is_named():
    late = entry(deadline=NOW + DAY + 3599)
    found = risks([late, entry(), entry()])
    assert set(found) == {late.request_id}
    assert found[late.request_id].overdue
    assert "too late" in found[late.request_id].why


def test_a_deadline_that_has_passed_is_named():
    late = entry(deadline=NOW)
    found = risks([late, entry()])
    assert found[late.request_id].overdue
    assert "passed" in found[late.request_id].why


def test_too_few_for_a_batch_is_named_with_how_many_and_when():
    """Early: from the first day on, and not only when the last window has gone by."""
    alone = entry(deadline=NOW + 10 * DAY)
    found = risks([alone], minimum_batch=3)
    assert not found[alone.request_id].overdue
    assert found[alone.request_id].why == f"2 more requests are needed for a batch by {time_text(NOW + 9 * DAY)}"


def test_a_long_line_is_named():
    """Five go in a window: the sixth deadline of the same day is not met."""
    line = [entry(deadline=NOW + 2 * DAY - 1) for _ in range(7)]
    found = risks(line)
    assert len(found) == 2
    assert all("5 requests go first, 5 in a window" in risk.why or "6 requests" in risk.why for risk in found.values())
    assert not any(risk.overdue for risk in found.values())


@pytest.mark.parametrize("count", [6, 11])
def test_the_rest_of_a_line_is_too_few(count):
    line = [entry() for _ in range(count)]
    found = risks(line)
    assert len(found) == 1
    assert "1 more requests are needed" in next(iter(found.values())).why


def test_a_window_that_is_due_does_not_take_what_came_after_it():
    """Between two windows: the open one is not the next one of a request that has just come."""
    fresh = entry(received=NOW + 50, deadline=NOW + 9000)
    waiting = [entry(), entry(), fresh, entry(received=NOW + 60)]
    found = risks(waiting, now=NOW + 100, first=NOW)
    assert set(found) == {fresh.request_id}
    assert found[fresh.request_id].why == f"the next window is due at {time_text(NOW + DAY)} and takes 3600 s: too late"


def test_a_window_that_is_due_and_too_small_helps_nobody():
    alone = entry(deadline=NOW + 9000)
    found = risks([alone], now=NOW + 100, first=NOW)
    assert found[alone.request_id].overdue
