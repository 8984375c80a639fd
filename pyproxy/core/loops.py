"""Whether an endpoint leads back to the frontend that it was picked for.

A Service may have an endpoint that is itself a frontend of this proxy: that is one hop more, and
allowed. But where such hops come back to where they began, each connection would open the next one,
until nothing is left; a Service whose endpoint is its own VIP is the shortest such circle. It is
enough that each frontend on a circle refuses to go round.
"""

from collections.abc import Mapping

from pyproxy.model.endpoint import Endpoint
from pyproxy.model.table import Frontend, FrontendKey


def leads_back(endpoint: Endpoint, origin: Frontend, table: Mapping[FrontendKey, Frontend]) -> bool:
    """Return whether a connection to `endpoint` can come to `origin` again.

    table: the frontends of this proxy; only hops within it are seen.
    """
    first: FrontendKey = (endpoint.address, endpoint.port, origin.protocol)
    if first not in table:
        return False  # a pod, as nearly always
    reached: set[FrontendKey] = set()
    ahead = [first]
    while ahead:
        key = ahead.pop()
        if key in reached or key not in table:
            continue
        reached.add(key)
        backend = table[key].backend
        ahead.extend(
            (e.address, e.port, origin.protocol) for e in (*backend.cluster, *backend.local)
        )
    return origin.key in reached
