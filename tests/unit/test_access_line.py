"""The lines of the access log."""

import json

from pyproxy.core.access_line import json_line, record_of, text_line
from pyproxy.model.ended import Ended
from pyproxy.model.service import ServicePortName

WEB = ServicePortName("shop", "web", "http", "TCP")
DNS = ServicePortName("kube-system", "kube-dns", "", "UDP")
FINISHED = Ended(
    WEB,
    ("10.96.0.10", 80),
    ("10.244.1.5", 43210),
    ("10.244.2.7", 8080),
    "finished",
    ended_s=100.0,
    duration_s=1.5,
    connect_s=0.0004,
    attempts=2,
    failed=[("10.244.2.8", 8080)],
    bytes_to_endpoint=120,
    bytes_to_client=4096,
)
REFUSED = Ended(DNS, ("fd00::10", 53), ("fd00::5", 4321), None, "no_endpoint", ended_s=100.0)
UNIX_S = 1_795_273_200.0654


def test_a_json_line_has_every_field_of_the_end() -> None:
    line = json_line(record_of(FINISHED, UNIX_S, "web-7d", "node-2"))
    assert line.endswith(b"}\n")
    assert json.loads(line) == {
        "time": "2026-11-21T15:00:00.065Z",
        "namespace": "shop",
        "name": "web",
        "port": "http",
        "protocol": "TCP",
        "frontend": "10.96.0.10:80",
        "client": "10.244.1.5:43210",
        "endpoint": "10.244.2.7:8080",
        "pod": "web-7d",
        "node": "node-2",
        "attempts": 2,
        "failed": ["10.244.2.8:8080"],
        "connect_seconds": 0.0004,
        "duration_seconds": 1.5,
        "bytes_to_endpoint": 120,
        "bytes_to_client": 4096,
        "datagrams_to_endpoint": None,
        "datagrams_to_client": None,
        "reason": "finished",
    }


def test_what_was_refused_has_no_endpoint() -> None:
    told = json.loads(json_line(record_of(REFUSED, UNIX_S, "", "")))
    assert told["frontend"] == "[fd00::10]:53"
    assert [told[key] for key in ("endpoint", "pod", "node", "connect_seconds")] == [None] * 4


def test_a_text_line_is_for_people() -> None:
    line = text_line(record_of(FINISHED, UNIX_S, "web-7d", "node-2")).decode()
    assert line == (
        "2026-11-21T15:00:00.065Z finished TCP shop/web:http"
        " 10.244.1.5:43210 > 10.96.0.10:80 > 10.244.2.7:8080 (web-7d on node-2)"
        " 1.500s connect=0.000400s attempts=2 failed=10.244.2.8:8080 bytes=120/4096\n"
    )


def test_a_text_line_leaves_out_what_there_is_not() -> None:
    line = text_line(record_of(REFUSED, UNIX_S, "", "")).decode()
    assert line == (
        "2026-11-21T15:00:00.065Z no_endpoint UDP kube-system/kube-dns"
        " [fd00::5]:4321 > [fd00::10]:53 > - 0.000s attempts=0 bytes=0/0\n"
    )


def test_a_text_line_of_a_udp_flow_has_its_datagrams() -> None:
    flow = Ended(
        DNS,
        ("10.96.0.10", 53),
        ("10.244.1.5", 4321),
        ("10.244.2.7", 53),
        "idle",
        ended_s=100.0,
        datagrams_to_endpoint=2,
        datagrams_to_client=1,
    )
    line = text_line(record_of(flow, UNIX_S, "", "node-2")).decode()
    assert "(- on node-2)" in line
    assert line.endswith(" attempts=0 bytes=0/0 datagrams=2/1\n")


def test_a_name_cannot_end_a_text_line() -> None:
    line = text_line(record_of(FINISHED, UNIX_S, "a\nb", "c"))
    assert line.count(b"\n") == 1
