"""A record of the access log as it is written: a line of JSON, or of text for people."""

from datetime import UTC, datetime

import msgspec

from pyproxy.model.addresses import join_host_port
from pyproxy.model.ended import Ended


class AccessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of a JSON line, in their order; docs/access-log.md tells what each means."""

    time: str
    namespace: str
    name: str
    port: str
    protocol: str
    frontend: str
    client: str
    endpoint: str | None
    pod: str | None
    node: str | None
    attempts: int
    failed: list[str]
    connect_seconds: float | None
    duration_seconds: float
    bytes_to_endpoint: int
    bytes_to_client: int
    datagrams_to_endpoint: int | None
    datagrams_to_client: int | None
    reason: str


_encoder = msgspec.json.Encoder()


def record_of(ended: Ended, unix_s: float, pod: str, node: str) -> AccessRecord:
    """Return the record of an end at a Unix time. pod, node: of the endpoint, or ""."""
    name = ended.service_port
    return AccessRecord(
        time=_rfc_3339(unix_s),
        namespace=name.namespace,
        name=name.name,
        port=name.port,
        protocol=name.protocol,
        frontend=join_host_port(*ended.frontend),
        client=join_host_port(*ended.client),
        endpoint=ended.endpoint and join_host_port(*ended.endpoint),
        pod=pod or None,
        node=node or None,
        attempts=ended.attempts,
        failed=[join_host_port(*endpoint) for endpoint in ended.failed],
        connect_seconds=None if ended.connect_s is None else round(ended.connect_s, 6),
        duration_seconds=round(ended.duration_s, 6),
        bytes_to_endpoint=ended.bytes_to_endpoint,
        bytes_to_client=ended.bytes_to_client,
        datagrams_to_endpoint=ended.datagrams_to_endpoint,
        datagrams_to_client=ended.datagrams_to_client,
        reason=ended.reason,
    )


def json_line(record: AccessRecord) -> bytes:
    """Return it as JSON, with the end of the line."""
    return _encoder.encode(record) + b"\n"


def text_line(record: AccessRecord) -> bytes:
    """Return it as text, with the end of the line."""
    port = f":{record.port}" if record.port else ""
    words = [
        f"{record.time} {record.reason} {record.protocol} {record.namespace}/{record.name}{port}",
        f"{record.client} > {record.frontend} > {record.endpoint or '-'}",
    ]
    if record.pod or record.node:
        words.append(f"({record.pod or '-'} on {record.node or '-'})")
    words.append(f"{record.duration_seconds:.3f}s")
    if record.connect_seconds is not None:
        words.append(f"connect={record.connect_seconds:.6f}s")
    words.append(f"attempts={record.attempts}")
    if record.failed:
        words.append(f"failed={','.join(record.failed)}")
    words.append(f"bytes={record.bytes_to_endpoint}/{record.bytes_to_client}")
    if record.datagrams_to_endpoint is not None:
        words.append(f"datagrams={record.datagrams_to_endpoint}/{record.datagrams_to_client}")
    return " ".join(words).replace("\n", " ").encode() + b"\n"


def _rfc_3339(unix_s: float) -> str:
    moment = datetime.fromtimestamp(unix_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
