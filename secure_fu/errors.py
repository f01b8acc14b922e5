"""The named errors of secure_fu.

Every error that this package raises on purpose derives from :class:`SecureFUError`. Messages name the argument, its
value and what would be right; they never hold data of a client, noise or key material.
"""

from __future__ import annotations

__all__ = [
    "AlreadyForgotten",
    "AnsweredLater",
    "ArgumentError",
    "BudgetExceededError",
    "CapacityError",
    "CheckpointError",
    "CiphertextError",
    "CohortTooSmall",
    "ConfigError",
    "CryptoError",
    "DamagedHistory",
    "DataError",
    "GuaranteeError",
    "HistoryError",
    "LedgerError",
    "MethodRefused",
    "NonFiniteError",
    "OpeningError",
    "PolicyRefusal",
    "PrivacyError",
    "ProtocolError",
    "RecordError",
    "ReuseError",
    "RosterError",
    "RoundAborted",
    "RunDirectoryError",
    "SealError",
    "SecretKeyExposedError",
    "SecureFUError",
    "ShareMisfit",
    "SignatureError",
    "TranscriptError",
    "UnattainableEpsilonError",
    "UnlearningError",
    "WireError",
]


class SecureFUError(Exception):
    """Base of every error that secure_fu raises on purpose."""


class ArgumentError(SecureFUError, ValueError):
    """An argument is outside its domain.

    Args:
        argument: name of the argument as the caller wrote it.
        value: the offending value. Pass a description (a shape, a count) where the value itself is private.
        expected: what would be right, as a noun phrase.
    """

    def __init__(self, argument: str, value: object, expected: str) -> None:
        super().__init__(f"{argument} is {value!r}; expected {expected}")
        self.argument = argument
        self.value = value
        self.expected = expected

    def __reduce__(self) -> tuple[type[ArgumentError], tuple[str, object, str]]:
        return type(self), (self.argument, self.value, self.expected)


class ConfigError(ArgumentError):
    """A configuration key is unknown or its value cannot be used."""


class DataError(SecureFUError):
    """A data set is missing, malformed, truncated or empty."""


class NonFiniteError(SecureFUError, ArithmeticError):
    """A gradient or a local update came out NaN or infinite; it counts as zero, and shows to nobody."""


class ReuseError(SecureFUError):
    """A single-use object was used a second time."""


class CryptoError(SecureFUError):
    """Base of the errors of secure_fu.crypto."""


class WireError(CryptoError):
    """A message is malformed, truncated, oversized, of an unknown version, or has bytes left over."""


class SignatureError(CryptoError):
    """A signature does not verify under the pinned key."""


class RosterError(CryptoError):
    """A party is not in the roster, or not in the role that it claims."""


class SealError(CryptoError):
    """A sealed box does not open under this key and associated data."""


class SecretKeyExposedError(CryptoError):
    """Bytes that must be public hold secret, relinearisation or Galois keys."""


class CiphertextError(CryptoError):
    """A ciphertext does not belong to this parameter set, key or length."""


class CapacityError(CryptoError):
    """The sum could leave the range in which the scheme is exact."""


class OpeningError(CryptoError):
    """An opened sum lies outside the range that an honest sum can have."""


class PrivacyError(SecureFUError):
    """Base of the errors of secure_fu.privacy."""


class BudgetExceededError(PrivacyError):
    """A release would exceed the privacy budget; nothing was charged."""


class UnattainableEpsilonError(PrivacyError):
    """No noise multiplier within the allowed range reaches the requested epsilon."""


class LedgerError(PrivacyError):
    """The ledger file is missing, corrupt, of another version, or used out of order."""


class ProtocolError(SecureFUError):
    """A message does not fit the state of the round; the receiver's state is unchanged."""


class RecordError(ProtocolError):
    """A party's durable record is missing, damaged, of another kind, or in use by another process."""


class TranscriptError(ProtocolError):
    """A transcript does not hold; the message names its line."""


class ShareMisfit(ProtocolError):
    """A share does not fit. It names the position, a client's share to a member; either of them may be at fault."""


class PolicyRefusal(ProtocolError):
    """A party refuses because its own pinned policy forbids what it was asked for."""


class AnsweredLater(PolicyRefusal):
    """A party has answered what comes later than what it is asked for now; who asks may have gone back."""


class RoundAborted(ProtocolError):
    """The round ended without a release."""


class CohortTooSmall(RoundAborted):
    """Fewer clients than the minimum cohort uploaded; nothing was opened and nothing is charged."""


class UnlearningError(SecureFUError):
    """A deletion that cannot be done as asked; nothing was released for it."""


class MethodRefused(UnlearningError):
    """A method cannot serve this deletion; the message says what it would need, or which methods can."""


class GuaranteeError(UnlearningError):
    """A guarantee that was asked for cannot be given, or was not reached; no model is published."""


class AlreadyForgotten(UnlearningError):
    """The request has been executed before."""


class CheckpointError(UnlearningError):
    """A checkpoint is missing, corrupt, or of another model."""


class HistoryError(UnlearningError):
    """A client's own history is missing, corrupt, or does not fit the model."""


class DamagedHistory(HistoryError):
    """A file of a client's own history is missing, truncated or corrupt."""


class RunDirectoryError(SecureFUError):
    """A run directory exists already, cannot be written, or is incomplete or corrupt."""
