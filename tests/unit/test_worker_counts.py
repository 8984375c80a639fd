"""Counters of workers, added up in the agent."""

from pyproxy.app.worker_counts import CountsSource, CountsSum
from pyproxy.app.worker_process import cause_of_death
from pyproxy.app.worker_settings import share_of
from pyproxy.app.worker_wire import Counts
from pyproxy.forward.settings import ForwardSettings
from pyproxy.metrics import Metrics, ServicePortCounters
from pyproxy.metrics.histogram import DURATION_BOUNDS_S, observe
from pyproxy.model.service import ServicePortName

WEB = ServicePortName("default", "web", "http", "TCP")
DNS = ServicePortName("default", "dns", "dns", "UDP")


class Pair:
    """A worker's counters, and what the agent makes of what it tells."""

    def __init__(self, agent: Metrics, number: int = 0) -> None:
        self.metrics = Metrics()
        self.source = CountsSource(self.metrics)
        self.sum = CountsSum(agent)
        self.number = number

    def tell(self, *wanted: ServicePortName) -> Counts:
        ports = [told for part in self.source.service_ports() for told in part]
        counts = Counts(ports, self.source.process(), 0, 0, 0)
        self.sum.add(self.number, counts, wanted or (WEB, DNS))
        return counts


def serve(counters: ServicePortCounters, connections: int) -> None:
    counters.opened += connections
    counters.active += connections
    counters.attempts["ok"] += connections
    counters.bytes_to_client += 10 * connections


def end(counters: ServicePortCounters, connections: int) -> None:
    counters.active -= connections
    counters.closed["finished"] += connections


def test_what_workers_count_is_added_up() -> None:
    agent = Metrics()
    first, second = Pair(agent), Pair(agent, 1)
    for pair in (first, second, first):
        serve(pair.metrics.service_port(WEB), 2)
        pair.metrics.bind_errors += 1
        pair.metrics.source_address_fallbacks["masqueraded"] += 1
        pair.tell()
    end(first.metrics.service_port(WEB), 1)
    first.tell()
    found = agent.service_port(WEB)
    assert (found.opened, found.active, found.bytes_to_client) == (6, 5, 60)
    assert (found.closed, found.attempts) == ({"finished": 1}, {"ok": 6})
    assert (agent.bind_errors, agent.source_address_fallbacks) == (3, {"masqueraded": 3})


def test_nothing_is_told_twice_and_idle_ports_not_at_all() -> None:
    pair = Pair(Metrics())
    serve(pair.metrics.service_port(WEB), 1)
    pair.metrics.service_port(DNS)
    assert [name for name, _ in pair.tell().service_ports] == [WEB]
    assert pair.tell().service_ports == []
    end(pair.metrics.service_port(WEB), 1)
    assert pair.tell().service_ports == [(WEB, {"active": -1, "closed": {"finished": 1}})]
    assert pair.tell().service_ports == []


def test_what_a_dead_worker_had_open_is_lost_and_its_counts_stay() -> None:
    agent = Metrics()
    pair = Pair(agent)
    serve(pair.metrics.service_port(WEB), 3)
    end(pair.metrics.service_port(WEB), 1)
    serve(pair.metrics.service_port(DNS), 1)
    end(pair.metrics.service_port(DNS), 1)
    pair.tell()
    assert pair.sum.lost(0) == 2
    assert pair.sum.lost(0) == 0
    web = agent.service_port(WEB)
    assert (web.opened, web.active, web.closed) == (3, 0, {"finished": 1, "worker_lost": 2})
    assert agent.service_port(DNS).closed == {"finished": 1}


def test_counts_of_a_service_that_is_gone_are_nobody_s() -> None:
    agent = Metrics()
    pair = Pair(agent)
    serve(pair.metrics.service_port(WEB), 2)
    pair.tell()
    pair.sum.forget(WEB)
    serve(pair.metrics.service_port(WEB), 1)
    pair.tell(DNS)
    assert pair.sum.lost(0) == 0
    assert list(agent.service_ports()) == []


def test_a_service_port_that_comes_back_counts_from_nothing() -> None:
    pair = Pair(Metrics())
    serve(pair.metrics.service_port(WEB), 2)
    pair.tell()
    pair.metrics.forget(WEB)
    serve(pair.metrics.service_port(WEB), 1)
    ((_, increments),) = pair.tell().service_ports
    assert increments["opened"] == 1
    pair.metrics.forget(WEB)
    assert pair.tell().service_ports == []


def test_limits_of_the_node_are_shared_out_and_listeners_shared() -> None:
    share = share_of(ForwardSettings(max_connections=10, max_udp_flows=9), 4)
    assert (share.max_connections, share.max_udp_flows, share.reuse_port) == (3, 3, True)


def test_a_death_is_told_in_words() -> None:
    assert list(map(cause_of_death, (1, -9, -35))) == ["exit status 1", "SIGKILL", "signal 35"]


def test_histograms_are_added_up_bucket_by_bucket() -> None:
    agent = Metrics()
    first, second = Pair(agent), Pair(agent, 1)
    for pair in (first, second, first):
        counters = pair.metrics.service_port(WEB)
        serve(counters, 1)
        observe(counters.durations, DURATION_BOUNDS_S, 0.5)
        pair.tell()
    assert agent.service_port(WEB).durations[2] == 3
    assert agent.service_port(WEB).durations[-1] == 1_500_000


def test_endpoints_that_a_dead_worker_had_ejected_are_ejected_no_more() -> None:
    agent = Metrics()
    pair = Pair(agent)
    pair.metrics.service_port(WEB).attempts["refused"] += 3
    pair.metrics.service_port(WEB).ejected = 1
    pair.tell()
    assert agent.service_port(WEB).ejected == 1
    pair.sum.lost(0)
    assert agent.service_port(WEB).ejected == 0


def test_datagrams_that_are_dropped_without_any_flow_are_told_of() -> None:
    agent = Metrics()
    pair = Pair(agent)
    pair.metrics.service_port(DNS).dropped["no_endpoint"] += 2
    pair.tell()
    assert agent.service_port(DNS).dropped == {"no_endpoint": 2}
    assert pair.tell().service_ports == []
    pair.metrics.service_port(DNS).dropped["no_endpoint"] += 1
    pair.tell()
    assert agent.service_port(DNS).dropped == {"no_endpoint": 3}
