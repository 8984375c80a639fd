"""The agent on one screen: is it well, and if not, why not."""

import os
from datetime import UTC, datetime
from typing import Any

from pyproxy.app.control_parts import Parts
from pyproxy.app.recent_errors import WINDOW_S, Error
from pyproxy.core.health import rfc3339

_TOP_ERRORS = 10
_MOST_UNBOUND = 100


def status(parts: Parts) -> dict[str, Any]:
    """The answer to GET /status."""
    store, metrics = parts.store, parts.metrics
    table, now = store.table(), datetime.now(UTC)
    state, reasons = state_of(parts)
    faults = parts.forwarding.bind_faults()
    return {
        "state": state,
        "reasons": reasons,
        "agent": {
            "pid": os.getpid(),
            "node": store.config.node_name,
            "uptime_seconds": round(now.timestamp() - parts.started_s, 3),
        },
        "source": {
            "kind": parts.source,
            "synced": store.is_synced,
            "watches": dict(metrics.watch_states),
            "restarts": sum(metrics.watch_restarts.values()),
            "undecodable": sum(metrics.decode_errors.values()),
        },
        "table": {
            "generation": metrics.table_generation,
            "services": len(store.services()),
            "frontends": len(table.frontends),
            "listening": len(parts.forwarding.listening()),
            "updated": _time(metrics.last_update_s),
        },
        "workers": parts.forwarding.detail(),
        "worker_restarts": metrics.worker_restarts,
        "steering": {
            "mode": parts.steering,
            "transactions": metrics.steering.transactions,
            "failures": metrics.steering.failures,
            "repairs": metrics.steering.repairs,
        },
        "traffic": _traffic(parts),
        "unbound": [
            {"address": address, "port": port, "protocol": protocol, "reason": reason}
            for (address, port, protocol), reason in sorted(faults.items())[:_MOST_UNBOUND]
        ],
        "errors_window_seconds": WINDOW_S,
        "errors": [error_json(error) for error in parts.errors.latest()[:_TOP_ERRORS]],
    }


def state_of(parts: Parts) -> tuple[str, list[str]]:
    """How the agent is: `healthy`, `degraded` or `down`; and why it is not healthy."""
    down, degraded = _down(parts), _degraded(parts)
    return "down" if down else "degraded" if degraded else "healthy", down + degraded


def error_json(error: Error) -> dict[str, Any]:
    """An error of a Service port in the JSON form."""
    namespace, name, port, protocol = error.service_port
    return {
        "namespace": namespace,
        "name": name,
        "port": port,
        "protocol": protocol,
        "kind": error.kind,
        "reason": error.reason,
        "count": error.count,
        "last": _time(error.last_s),
    }


def _down(parts: Parts) -> list[str]:
    """Why clients are not served, or not by what is known now."""
    why = []
    if parts.health.is_stopping:
        why.append("draining: it takes no new clients")
    if not parts.is_serving():
        why.append("nothing is served yet: the first table is not complete")
    if not parts.health.is_healthy():
        why.append("an update of the table has been waiting for too long; the log tells why")
    return why


def _degraded(parts: Parts) -> list[str]:
    """What is not as it should be, while clients are served."""
    why = []
    if not parts.health.is_node_eligible:
        why.append("the Node is being removed, or the API server does not know it")
    for resource, state in sorted(parts.metrics.watch_states.items()):
        if state not in {"watching", "absent"}:
            why.append(f"the watch of {resource} is {state}: changes may be missed")
    serving = sum(bool(worker["serving"]) for worker in parts.forwarding.detail())
    if serving < parts.workers:
        why.append(f"{serving} of {parts.workers} workers serve")
    faults = parts.forwarding.bind_faults()
    if faults:
        why.append(f"{len(faults)} addresses and ports cannot be listened on")
    return why


def _traffic(parts: Parts) -> dict[str, Any]:
    counters = [counters for _, counters in parts.metrics.service_ports()]
    return {
        "active": sum(c.active for c in counters),
        "opened": sum(c.opened for c in counters),
        "bytes_to_endpoint": sum(c.bytes_to_endpoint for c in counters),
        "bytes_to_client": sum(c.bytes_to_client for c in counters),
        "ejections": sum(c.ejections for c in counters),
    }


def _time(unix_s: float) -> str | None:
    return rfc3339(datetime.fromtimestamp(unix_s, UTC)) if unix_s else None
