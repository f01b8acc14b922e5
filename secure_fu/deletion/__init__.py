"""Deletion requests, from who asks to what was done: signed requests, their queue and its windows.

What exactly is to be forgotten is identified by each client on its own records.
"""

from __future__ import annotations

from secure_fu.deletion.deletion_policy import DeletionPolicy, read_deletion_policy, write_deletion_policy
from secure_fu.deletion.execution import (
    BatchRefused,
    DeletionExecutor,
    Execution,
    pack_execution,
    unpack_execution,
)
from secure_fu.deletion.queue import RequestQueue
from secure_fu.deletion.queue_entries import Change, Entry, Reading, State, Submission, Window, WindowState
from secure_fu.deletion.request import DeletionBatch, DeletionRequest, Scope
from secure_fu.deletion.request_errors import (
    RequestExpired,
    RequestForged,
    RequestFromTheFuture,
    RequestRefused,
    RequestTooLarge,
    RequestUnauthorised,
    TooManyWaiting,
)
from secure_fu.deletion.request_messages import (
    MAX_REQUEST_BYTES,
    Disclosure,
    SealedDetails,
    SignedBatch,
    SignedRequest,
)
from secure_fu.deletion.service import Certify, DeletionService, RunReport, unix_time
from secure_fu.deletion.signed_request import (
    check_request,
    check_signature,
    decode_request,
    open_request,
    read_request,
    sign_request,
)
from secure_fu.deletion.windows import Risk, WindowPlan, forecast, last_due, next_due, plan_window

__all__ = [
    "MAX_REQUEST_BYTES",
    "BatchRefused",
    "Certify",
    "Change",
    "DeletionBatch",
    "DeletionExecutor",
    "DeletionPolicy",
    "DeletionRequest",
    "DeletionService",
    "Disclosure",
    "Entry",
    "Execution",
    "Reading",
    "RequestExpired",
    "RequestForged",
    "RequestFromTheFuture",
    "RequestQueue",
    "RequestRefused",
    "RequestTooLarge",
    "RequestUnauthorised",
    "Risk",
    "RunReport",
    "Scope",
    "SealedDetails",
    "SignedBatch",
    "SignedRequest",
    "State",
    "Submission",
    "TooManyWaiting",
    "Window",
    "WindowPlan",
    "WindowState",
    "check_request",
    "check_signature",
    "decode_request",
    "forecast",
    "last_due",
    "next_due",
    "open_request",
    "pack_execution",
    "plan_window",
    "read_deletion_policy",
    "read_request",
    "sign_request",
    "unix_time",
    "unpack_execution",
    "write_deletion_policy",
]
