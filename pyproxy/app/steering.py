"""Steering as the configuration asks for it, and its removal."""

from pyproxy.config.own import Steering as SteeringConfig
from pyproxy.forward.source import FIRST_PORT, LAST_PORT
from pyproxy.steer.bridge import BridgeReplies
from pyproxy.steer.nft import Nft
from pyproxy.steer.reconciler import Steering, SteerSettings
from pyproxy.steer.routes import PolicyRoute


def steer_settings(numbers: SteeringConfig) -> SteerSettings:
    """The numbers that the configuration gives to steering."""
    return SteerSettings(
        mark=numbers.mark,
        route_table=numbers.route_table,
        rule_priority=numbers.rule_priority,
        checks_pods=numbers.check_pod_sources,
    )


def route_of(settings: SteerSettings) -> PolicyRoute:
    """The policy route of these numbers."""
    return PolicyRoute(settings.mark, settings.route_table, settings.rule_priority)


async def cleanup(settings: SteerSettings) -> None:
    """Remove everything that steering has put into the kernel. Raises PyproxyError."""
    await Steering(Nft(), route_of(settings), settings).cleanup()
    await BridgeReplies(Nft(), (FIRST_PORT, LAST_PORT)).cleanup()
