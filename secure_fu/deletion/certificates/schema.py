"""The form of a deletion certificate: its JSON schema, its one text, and a reader that takes nothing else.

A certificate is one text. Whoever reads it writes it again and compares: other spaces, other orders of keys, other
spellings of a number or a letter, keys that occur twice are all refused before anything else is looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from secure_fu.errors import SecureFUError

__all__ = [
    "CERTIFICATE_SCHEMA",
    "MAX_CERTIFICATE_BYTES",
    "SCHEMA_NAME",
    "CertificateError",
    "canonical",
    "certificate_text",
    "check_shape",
    "parse_certificate",
]

SCHEMA_NAME: Final = "secure-fu/certificate/1"
MAX_CERTIFICATE_BYTES: Final = 64 << 20
_MAX_DEPTH: Final = 12
_MAX_DIGITS: Final = 32

Schema = dict[str, Any]


class CertificateError(SecureFUError):
    """A certificate does not hold, or was edited; the message says what."""


def _object(**properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Schema, *, most: int = 1_000_000, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _hex(count: int) -> Schema:
    return {"type": "string", "pattern": f"^[0-9a-f]{{{2 * count}}}$"}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _choice(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


_BOOLEAN: Final[Schema] = {"type": "boolean"}
# What a terminal or a page could take for something else than text has no place: control and format characters.
_SENTENCE: Final[Schema] = {
    "type": "string",
    "minLength": 1,
    "maxLength": 4096,
    "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f\\u200b-\\u200f\\u2028-\\u202e"
    "\\u2060-\\u206f\\ud800-\\udfff\\ufeff]*$",
}
_NAME: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}
_WORD: Final[Schema] = {"type": "string", "pattern": "^[!-~]([ -~]{0,254}[!-~])?$"}
_TIME: Final[Schema] = {
    "type": "string",
    "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$",
}
_DIGEST: Final = _hex(32)
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": 9007199254740991}
_U32: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": 4294967295}
_POSITIVE: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 9007199254740991}
_EPSILON: Final = _or_null({"type": "number", "minimum": 0})
_DELTA: Final[Schema] = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
_FIGURE: Final = _object(value=_EPSILON, delta=_DELTA, group_size=_POSITIVE)
_EVENT: Final = _object(
    noise_multiplier={"type": "number", "exclusiveMinimum": 0},
    sampling_rate={"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    grid_ratio={"type": "number", "minimum": 2},
    dimension=_POSITIVE,
    shares=_POSITIVE,
)
_SETTING: Final[Schema] = {"anyOf": [{"type": "number"}, _WORD, _BOOLEAN]}

_REQUEST: Final = _object(
    request_id=_or_null(_hex(16)),
    scope=_choice("client", "group", "records", "class"),
    requester=_object(name=_or_null(_NAME), commitment=_or_null(_DIGEST)),
    client=_or_null(_NAME),
    units=_or_null(_POSITIVE),
    submitted=_or_null(_TIME),
    deadline=_or_null(_TIME),
    deadline_met=_or_null(_BOOLEAN),
)
_GUARANTEE: Final = _object(
    kind=_choice("exact", "certified", "heuristic", "baseline"),
    reason=_SENTENCE,
    assumptions=_list(_SENTENCE, most=64),
    adaptive=_BOOLEAN,
    epsilon=_EPSILON,
    delta=_or_null(_DELTA),
    group_size=_or_null(_POSITIVE),
    view=_or_null(_SENTENCE),
    counted=_or_null(_choice("basis", "everything")),
    shift=_or_null({"type": "number", "minimum": 0}),
    output_noise=_or_null({"type": "number", "exclusiveMinimum": 0}),
)
_ENTRY: Final = _object(
    subject=_choice("forgotten", "retained"),
    phase=_choice("training", "unlearning", "training+unlearning"),
    view=_choice("every release"),
    value=_EPSILON,
    delta=_DELTA,
    group_size=_POSITIVE,
)
_ROUNDS: Final = _object(
    part=_choice("basis", "before", "beside", "deletion"),
    phase=_choice("training", "unlearning"),
    released=_BOOLEAN,
    forgotten=_or_null(_EVENT),
    retained=_or_null(_EVENT),
    counts=_object(forgotten=_list(_COUNT, most=64, least=1), retained=_list(_COUNT, most=64, least=1)),
)
_AUDIT: Final = _object(
    sha256=_DIGEST,
    created=_SENTENCE,
    complete=_BOOLEAN,
    quick=_BOOLEAN,
    source=_SENTENCE,
    outcome=_choice("leak", "invalid", "cannot tell", "passed"),
    sentences=_list(_SENTENCE, most=64, least=1),
    method=_or_null(_object(outcome=_choice("leak", "invalid", "cannot tell", "passed"), sentence=_SENTENCE)),
    assumptions=_list(_SENTENCE, most=64),
    not_seen=_list(_SENTENCE, most=64),
    insecure=_list(_SENTENCE, most=64),
)
_BODY: Final = _object(
    schema={"type": "string", "enum": [SCHEMA_NAME]},
    number=_POSITIVE,
    previous=_DIGEST,
    window=_hex(16),
    server=_NAME,
    roster=_DIGEST,
    policy=_DIGEST,
    times=_object(started=_TIME, finished=_TIME, issued=_TIME),
    order=_or_null(_object(digest=_DIGEST, opened=_TIME, run_key=_DIGEST, continues_after=_COUNT)),
    asked=_object(signed=_BOOLEAN, requests=_list(_REQUEST, most=100_000), hidden_units=_COUNT, units=_POSITIVE),
    method=_object(
        name=_WORD,
        settings={"type": "object", "propertyNames": _WORD, "additionalProperties": _SETTING, "maxProperties": 256},
    ),
    model=_object(before=_DIGEST, after=_DIGEST),
    forgetting=_GUARANTEE,
    confidentiality=_object(
        phase=_FIGURE,
        pair=_FIGURE,
        who_asked=_FIGURE,
        group=_or_null(_object(phase=_FIGURE, pair=_FIGURE, who_asked=_FIGURE)),
    ),
    epsilon=_list(_ENTRY, most=64, least=1),
    accounting=_object(
        unit=_choice("record", "group", "client"),
        delta=_DELTA,
        rounds=_list(_ROUNDS, most=4096),
        basis=_list(_object(branch=_WORD, last_round=_COUNT), most=4096),
    ),
    ledger=_object(branch=_WORD, events=_COUNT),
    transcript=_object(run_id=_hex(16), before=_DIGEST, root=_DIGEST, rounds=_COUNT),
    wiped=_list(_object(client=_NAME, rounds=_U32, commitment=_DIGEST, signature=_hex(64))),
    unconfirmed=_list(_NAME),
    audit=_or_null(_AUDIT),
    software={"type": "object", "propertyNames": _WORD, "additionalProperties": _WORD, "maxProperties": 64},
    parameter_sets=_list(_WORD, most=64),
)

CERTIFICATE_SCHEMA: Final[Schema] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": SCHEMA_NAME,
    **_object(
        certificate=_BODY,
        signature=_object(algorithm=_choice("Ed25519"), domain=_choice("certificate"), signer=_NAME, value=_hex(64)),
    ),
}
"""The JSON schema of a certificate file; docs/certificates.md says what each part means."""


def canonical(value: object) -> bytes:
    """What is signed: JSON with sorted keys, no spaces, ASCII only, numbers as Python writes them.

    Raises:
        CertificateError: the value is not of JSON.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise CertificateError(f"this cannot be written as JSON: {error}") from None


def certificate_text(document: Mapping[str, Any]) -> bytes:
    """The one text of a certificate file: as :func:`canonical`, but on indented lines, and a line's end."""
    return (json.dumps(document, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def parse_certificate(content: bytes) -> dict[str, Any]:
    """Read the text of a certificate; its signature is not looked at.

    Raises:
        CertificateError: it is too large or too deep, no JSON, has a key twice, does not follow the schema, or is not
            the one text that says what it says.
    """
    if len(content) > MAX_CERTIFICATE_BYTES:
        raise CertificateError(f"it has more than {MAX_CERTIFICATE_BYTES} bytes; no certificate is so large")
    if _depth(content) > _MAX_DEPTH:
        raise CertificateError(f"it is nested more than {_MAX_DEPTH} deep; no certificate is")
    try:
        document = json.loads(
            content.decode("ascii"),
            object_pairs_hook=_once,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except (ValueError, RecursionError) as error:
        raise CertificateError(f"the certificate is no JSON in ASCII ({error}): it was edited or damaged") from None
    check_shape(document)
    if certificate_text(document) != content:
        raise CertificateError("it is not written as certificates are: it was edited or written anew")
    found: dict[str, Any] = document
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise CertificateError("it has a key twice: it was edited")
    return found


def _constant(text: str) -> NoReturn:
    raise CertificateError(f"it holds {text}, which is no number: it was edited")


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise CertificateError(f"it holds a number of {len(text)} digits: it was edited")
    return int(text)


def _float(text: str) -> float:
    value = float(text) if len(text) <= _MAX_DIGITS else float("inf")
    if value in (float("inf"), -float("inf")):
        raise CertificateError("it holds a number that is too large or too long: it was edited")
    return value


def _depth(content: bytes) -> int:
    """How deep brackets nest, outside of strings."""
    deepest = depth = 0
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', content, re.DOTALL):
        mark = token.group()[:1]
        if mark in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in b"]}":
            depth -= 1
    return deepest


# The part of JSON schema that is used above; the tests compare it with an independent implementation.


def check_shape(value: object, schema: Mapping[str, Any] = CERTIFICATE_SCHEMA, path: str = "$") -> None:
    """Check a decoded certificate, or a part of one, against its schema.

    Raises:
        CertificateError: names the path of the first value that is wrong, and what would be right.
    """
    if "anyOf" in schema:
        _any_of(value, schema["anyOf"], path)
        return
    kind = schema["type"]
    if not _is(value, kind):
        raise CertificateError(f"{path} is {_shown(value)}; expected {'null' if kind == 'null' else f'a JSON {kind}'}")
    if isinstance(value, Mapping):
        _check_object(value, schema, path)
    elif isinstance(value, list):
        if not schema["minItems"] <= len(value) <= schema["maxItems"]:
            _reject(path, f"a list of {len(value)}", f"{schema['minItems']} to {schema['maxItems']} items")
        for place, item in enumerate(value):
            check_shape(item, schema["items"], f"{path}[{place}]")
    elif isinstance(value, str):
        _check_text(value, schema, path)
    elif not isinstance(value, bool) and isinstance(value, (int, float)):
        _check_number(value, schema, path)


def _check_number(value: float, schema: Mapping[str, Any], path: str) -> None:
    if "minimum" in schema and not value >= schema["minimum"]:
        _reject(path, value, f"a number of at least {schema['minimum']}")
    if "maximum" in schema and not value <= schema["maximum"]:
        _reject(path, value, f"a number of at most {schema['maximum']}")
    if "exclusiveMinimum" in schema and not value > schema["exclusiveMinimum"]:
        _reject(path, value, f"a number above {schema['exclusiveMinimum']}")
    if "exclusiveMaximum" in schema and not value < schema["exclusiveMaximum"]:
        _reject(path, value, f"a number below {schema['exclusiveMaximum']}")


def _any_of(value: object, options: list[Mapping[str, Any]], path: str) -> None:
    fitting = [option for option in options if _is(value, option["type"])]
    if not fitting:
        _reject(path, value, " or ".join(f"a JSON {option['type']}" for option in options))
    check_shape(value, fitting[0], path)


def _is(value: object, kind: str) -> bool:
    if kind in ("integer", "number") and isinstance(value, bool):
        return False
    kinds: dict[str, type | tuple[type, ...]] = {
        "object": Mapping,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
        "null": type(None),
    }
    return isinstance(value, kinds[kind])


def _check_object(value: Mapping[Any, Any], schema: Mapping[str, Any], path: str) -> None:
    properties = schema.get("properties", {})
    for key in schema.get("required", ()):
        if key not in value:
            raise CertificateError(f"{path}.{key} is missing")
    if len(value) > schema.get("maxProperties", len(value)):
        _reject(path, f"an object of {len(value)} keys", f"at most {schema['maxProperties']}")
    for key, item in value.items():
        if key in properties:
            check_shape(item, properties[key], f"{path}.{key}")
            continue
        if schema["additionalProperties"] is False:
            raise CertificateError(f"{path} has a key {_shown(key)}, which certificates do not have")
        check_shape(key, schema["propertyNames"], f"a key of {path}")
        check_shape(item, schema["additionalProperties"], f"{path}.{key}")


def _check_text(value: str, schema: Mapping[str, Any], path: str) -> None:
    if "enum" in schema and value not in schema["enum"]:
        _reject(path, value, " or ".join(map(repr, schema["enum"])))
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        _reject(path, f"a text of {len(value)} letters", f"{schema['minLength']} to {schema['maxLength']}")
    # Not re.match: "$" would let a line's end through.
    if "pattern" in schema and not re.fullmatch(schema["pattern"].removeprefix("^").removesuffix("$"), value):
        _reject(path, value, f"a text of the form {schema['pattern']}")


def _reject(path: str, value: object, expected: str) -> NoReturn:
    raise CertificateError(f"{path} is {_shown(value)}; expected {expected}")


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
