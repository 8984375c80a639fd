"""What went wrong lately, from counters that only grow."""

from pyproxy.app.recent_errors import WINDOW_S, RecentErrors
from pyproxy.metrics import Metrics
from pyproxy.model.service import ServiceName, ServicePortName

WEB = ServicePortName("default", "web", "http", "TCP")
DNS = ServicePortName("kube-system", "dns", "", "UDP")


def test_errors_are_summed_over_the_window_and_the_most_come_first() -> None:
    metrics, now = Metrics(), [1000.0]
    errors = RecentErrors(metrics, lambda: now[0])
    assert errors.latest() == []
    web, dns = metrics.service_port(WEB), metrics.service_port(DNS)
    web.attempts.update(ok=9, refused=1)
    web.closed.update(finished=9, connect_failed=1)
    dns.attempts.update(refused=5)
    found = [(e.service_port, e.kind, e.reason, e.count) for e in errors.latest()]
    assert found[0] == (DNS, "connect", "refused", 5)
    assert set(found[1:]) == {(WEB, "connect", "refused", 1), (WEB, "closed", "connect_failed", 1)}
    now[0] += WINDOW_S - 1
    web.attempts["refused"] += 2
    (first, *_) = errors.latest(ServiceName("default", "web"))
    assert (first.reason, first.count, first.last_s) == ("refused", 3, now[0])
    now[0] += 2  # the first ones are too old by now
    assert [(e.reason, e.count) for e in errors.latest()] == [("refused", 2)]


def test_a_service_that_is_made_anew_begins_anew() -> None:
    metrics = Metrics()
    errors = RecentErrors(metrics, lambda: 0.0)
    for _ in range(2):
        metrics.service_port(WEB).attempts["timeout"] += 2
        errors.latest()
        metrics.forget(WEB)
        errors.latest()
    assert [e.count for e in errors.latest()] == [4]
