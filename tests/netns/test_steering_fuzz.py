"""Random histories of a cluster, from the store to the kernel: it holds what the table says."""

import random

import msgspec
import pytest

from pyproxy.core.ruleset import UNKNOWN, ruleset
from pyproxy.core.transaction import TABLE
from pyproxy.model.events import Applied, Deleted, key_of
from pyproxy.model.persistent import PersistentMap
from pyproxy.steer.nft import Nft
from tests.support.builders import Json, applied, decoded, make_service_cidr, resource_of
from tests.support.netns import cluster, needs_netns
from tests.support.steering import SteeringNode, both, dual, endpoints

pytestmark = needs_netns

RANGES: tuple[list[str], ...] = (
    [],
    ["10.0.0.0/8"],
    ["192.168.7.0/24", "10.244.0.0/16", "10.244.1.0/24"],
    ["0.0.0.0/1"],
)


def random_object(dice: random.Random) -> Json:
    number = dice.randrange(10, 16)
    if dice.random() < 0.4:
        return dice.choice(endpoints(number, dice.choice(["node-1", "node-2"])))
    if dice.random() < 0.1:
        cidrs = dice.sample(["10.96.0.0/16", "10.96.0.0/24", "10.97.0.0/16", "fd00:96::/108"], 2)
        return make_service_cidr(*cidrs, name=dice.choice(["kubernetes", "second"]))
    return dual(
        number,
        ports=both(80, dice.choice([0, 30000 + number])),
        type=dice.choice(["ClusterIP", "NodePort", "LoadBalancer"]),
        externalIPs=dice.sample(["203.0.113.1", "203.0.113.2", "2001:db8::1", "192.168.7.1"], 2),
        lb_ips=dice.sample(["203.0.113.1", "203.0.113.9", "2001:db8::9"], dice.randrange(3)),
        externalTrafficPolicy=dice.choice(["Cluster", "Local"]),
        internalTrafficPolicy=dice.choice(["Cluster", "Local"]),
        loadBalancerSourceRanges=dice.choice(RANGES),
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_kernel_holds_what_the_table_says(seed: int) -> None:
    dice = random.Random(seed)
    with cluster(pods=0) as lab, SteeringNode(lab) as node:
        for _ in range(60):
            known: list[Json] = [random_object(dice) for _ in range(dice.randrange(1, 5))]
            for data in known:
                event: Applied | Deleted = applied(data)
                if dice.random() < 0.25:
                    event = Deleted(resource_of(data), key_of(decoded(data)))
                node.store.apply(event)
            if dice.random() < 0.1:
                node.restart()
            if dice.random() < 0.1:
                node.nft(f"flush set {TABLE} steer4")  # somebody means ill
                node.run(node.steering.check())
            node.update()
            wanted = ruleset(node.store.table(), node.servers)
            found = node.run(Nft().read())
            assert found is not None
            unknown = PersistentMap(dict.fromkeys(wanted.guards, UNKNOWN))
            assert found.ruleset == msgspec.structs.replace(wanted, guards=unknown)
