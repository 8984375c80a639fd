"""The store with 10,000 Services of 10 endpoints each: build from JSON, one event, memory."""

import json
import random
import statistics
import time
import tracemalloc
from typing import Any

import msgspec

from pyproxy.config import ProxyConfig
from pyproxy.core.decode import decode
from pyproxy.core.store import Store
from pyproxy.model.endpoint import EndpointSlice
from pyproxy.model.events import Applied, Listed, Resource

SERVICES = 10_000
ENDPOINTS = 10


def service_json(n: int) -> dict[str, Any]:
    """A Service as the API server writes one, with the usual metadata."""
    address = f"10.{96 + n // 65536}.{n // 256 % 256}.{n % 256}"
    return {
        "metadata": {
            "name": f"service-{n}",
            "namespace": f"namespace-{n % 50}",
            "uid": f"6d2a1f6e-0000-0000-0000-{n:012}",
            "resourceVersion": str(100_000 + n),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": f"service-{n}", "team": "a"},
            "annotations": {"example.com/owner": "team-a"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
            "selector": {"app": f"service-{n}"},
            "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    }


def slice_json(n: int) -> dict[str, Any]:
    """Its EndpointSlice, as the endpoint-slice controller writes one."""
    return {
        "metadata": {
            "name": f"service-{n}-abcde",
            "namespace": f"namespace-{n % 50}",
            "uid": f"7d2a1f6e-0000-0000-0000-{n:012}",
            "resourceVersion": str(200_000 + n),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "kubernetes.io/service-name": f"service-{n}",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [endpoint_json(n, i) for i in range(ENDPOINTS)],
    }


def endpoint_json(n: int, i: int) -> dict[str, Any]:
    """One ready endpoint."""
    return {
        "addresses": [f"10.{128 + n // 6000}.{n // 25 % 240}.{n % 25 * 10 + i}"],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": f"node-{i}",
        "zone": f"zone-{i % 3}",
        "targetRef": {"kind": "Pod", "name": f"service-{n}-{i}", "namespace": "x", "uid": str(i)},
    }


class _List(msgspec.Struct):
    items: list[msgspec.Raw]


def listed(resource: Resource, data: bytes) -> Listed:
    """Decode a whole list from the API server's bytes."""
    items = msgspec.json.decode(data, type=_List).items
    return Listed(resource, tuple(decode(resource, item) for item in items))


def lists(count: int = SERVICES) -> tuple[bytes, bytes]:
    """The two lists as bytes: Services and EndpointSlices."""
    services = json.dumps({"items": [service_json(n) for n in range(count)]}).encode()
    slices = json.dumps({"items": [slice_json(n) for n in range(count)]}).encode()
    return services, slices


def build(services: bytes, slices: bytes) -> Store:
    """The store as it is after the first lists."""
    store = Store(ProxyConfig(node_name="node-1"))
    store.apply(listed("services", services))
    store.apply(listed("endpointslices", slices))
    store.apply(Listed("nodes", ()))
    store.apply(Listed("servicecidrs", ()))
    store.table()
    return store


def event_times_us(store: Store, events: int = 2000) -> tuple[float, float]:
    """Median and 99th percentile of `apply`, for a slice one of whose endpoints flips."""
    chosen = random.Random(1).sample(range(SERVICES), events // 2)
    times = []
    for n, is_ready in [(n, is_ready) for is_ready in (False, True) for n in chosen]:
        data = slice_json(n)
        data["endpoints"][0]["conditions"]["ready"] = is_ready
        value = decode("endpointslices", msgspec.json.encode(data))
        assert isinstance(value, EndpointSlice)
        began = time.perf_counter()
        changes = store.apply(Applied("endpointslices", value))
        assert len(changes.frontends) == 1
        times.append((time.perf_counter() - began) * 1e6)
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def main() -> None:
    """Print the figures."""
    services, slices = lists()
    began = time.perf_counter()
    store = build(services, slices)
    full_s = time.perf_counter() - began
    median_us, p99_us = event_times_us(store)
    began = time.perf_counter()
    for _ in range(20):
        store._table = None
        store.table()
    snapshot_us = (time.perf_counter() - began) / 20 * 1e6
    del store
    tracemalloc.start()
    store = build(services, slices)
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(store.table().frontends) == SERVICES
    megabytes = (len(services) + len(slices)) / 1e6
    print(f"store, {SERVICES:,} Services x {ENDPOINTS} endpoints, {megabytes:.1f} MB of JSON")
    print(f"  full build from bytes        {full_s:8.2f} s")
    print(f"  one event, median            {median_us:8.1f} µs")
    print(f"  one event, 99th percentile   {p99_us:8.1f} µs")
    print(f"  full build / one event       {full_s * 1e6 / median_us:8,.0f} x")
    print(f"  table as a value, if changed {snapshot_us:8.1f} µs")
    print(f"  memory after the build       {size / 1e6:8.1f} MB, peak {peak / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
