"""The syntax of names, labels and annotations, with Kubernetes' words for what breaks it."""

from __future__ import annotations

import re
from typing import Any

from tests.cluster.server.objects import Object

Causes = list[tuple[str, str]]

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")

_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_DNS_1035_RULE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_KEY_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)


def bad_value(value: Any, why: str) -> str:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return f"Invalid value: {shown}: {why}"


def dns_label(field: str, value: str) -> Causes:
    causes = [(field, bad_value(value, "must be no more than 63 characters"))] if len(value) > 63 else []
    return causes + ([] if LABEL.fullmatch(value) else [(field, bad_value(value, _LABEL_RULE))])


def dns_1035_label(field: str, value: str) -> Causes:
    causes = [(field, bad_value(value, "must be no more than 63 characters"))] if len(value) > 63 else []
    return causes + ([] if _DNS_1035.fullmatch(value) else [(field, bad_value(value, _DNS_1035_RULE))])


def dns_subdomain(field: str, value: str) -> Causes:
    causes = [(field, bad_value(value, "must be no more than 253 characters"))] if len(value) > 253 else []
    return causes + ([] if _SUBDOMAIN.fullmatch(value) else [(field, bad_value(value, _SUBDOMAIN_RULE))])


def label_value(field: str, value: str) -> Causes:
    causes = [(field, bad_value(value, "must be no more than 63 characters"))] if len(value) > 63 else []
    return causes + ([] if _VALUE.fullmatch(value) else [(field, bad_value(value, _VALUE_RULE))])


def labels(meta: Object, field: str = "metadata") -> Causes:
    """What is wrong with an object's labels and annotations."""
    causes = label_map(f"{field}.labels", meta.get("labels") or {})
    for key in meta.get("annotations") or {}:
        causes += _key(f"{field}.annotations", key)
    size = sum(len(k) + len(v) for k, v in (meta.get("annotations") or {}).items())
    if size > 256 * 1024:
        causes.append((f"{field}.annotations", "Too long: may not be more than 262144 bytes"))
    return causes


def label_map(field: str, pairs: dict[str, str]) -> Causes:
    """What is wrong with labels, wherever they stand: on an object or in a selector."""
    return [c for key, value in pairs.items() for c in _key(field, key) + label_value(field, value)]


def _key(field: str, key: str) -> Causes:
    prefix, _, name = key.rpartition("/")
    causes = dns_subdomain(field, prefix) if prefix or key.startswith("/") else []
    if len(name) > 63:
        causes.append((field, bad_value(key, "name part must be no more than 63 characters")))
    return causes + ([] if _QUALIFIED.fullmatch(name) else [(field, bad_value(key, _KEY_RULE))])
