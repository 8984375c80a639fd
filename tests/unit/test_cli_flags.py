"""Flags stand for fields of the configuration: what each sets, and what of it is refused."""

import os
from typing import Any

import pytest

from pyproxy.cli import flags, parser
from pyproxy.cli.run import configz, settings
from pyproxy.config import Configuration, HostPort, parse_config
from pyproxy.config.kinds import AUTO_WORKERS
from pyproxy.errors import ConfigError
from pyproxy.model.addresses import parse_cidr
from pyproxy.steer.permission import why_not

FILE = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
hostnameOverride: from-the-file
clusterCIDR: 10.1.0.0/16
"""

PODS = (parse_cidr("10.0.0.0/8"),)


def applied(*arguments: str, text: str = "") -> Configuration:
    configuration = parse_config(text)[0] if text else Configuration()
    return flags.apply(configuration, parser().parse_args(["run", *arguments]))


def agent_settings(*arguments: str, text: str = "") -> Any:
    return settings(parser().parse_args(["run", *arguments]), applied(*arguments, text=text))


@pytest.mark.parametrize(
    ("arguments", "read", "expected"),
    [
        (["--hostname-override", " Node-1 "], lambda c: c.proxy.node_name, "node-1"),
        (["--bind-address", "10.0.0.01"], lambda c: c.proxy.bind_address, "10.0.0.1"),
        (["--cluster-cidr", "10.0.0.0/8"], lambda c: c.proxy.cluster_cidr, PODS),
        (["--detect-local-mode", "NodeCIDR"], lambda c: c.proxy.detect_local_mode, "NodeCIDR"),
        (["--masquerade-all"], lambda c: c.proxy.masquerade_all, True),
        (["--service-proxy-name", "x"], lambda c: c.proxy.proxy_name, "x"),
        (["--nodeport-addresses", "primary"], lambda c: c.proxy.node_port_addresses.primary, True),
        (["--iptables-sync-period", "1m"], lambda c: c.sync_period_s, 60.0),
        (["--iptables-min-sync-period", "2"], lambda c: c.min_sync_period_s, 2.0),
        (["--metrics-bind-address", "10.0.0.1"], lambda c: c.metrics, HostPort("10.0.0.1", 10249)),
        (["--metrics-bind-address", ""], lambda c: c.metrics, HostPort("127.0.0.1", 10249)),
        (["--healthz-bind-address", "[::1]:0"], lambda c: c.health, HostPort("::1", 0)),
        (["--healthz-bind-address", "::1"], lambda c: c.health, HostPort("::1", 10256)),
        (["--balance", "random"], lambda c: c.proxy.options.balance, "random"),
        (["--slow-start", "1m"], lambda c: c.proxy.options.slow_start_s, 60.0),
        (["--on-endpoint-removed", "keep"], lambda c: c.pyproxy.on_endpoint_removed, "keep"),
        (["--workers", "auto"], lambda c: c.pyproxy.workers, AUTO_WORKERS),
        (["--workers", "3"], lambda c: c.pyproxy.workers, 3),
        (["-v", "4"], lambda c: c.log_level, "debug"),
        (["--log-level", "error", "-v", "9"], lambda c: c.log_level, "error"),
        (["--log-format", "json"], lambda c: c.log_format, "json"),
    ],
)  # fmt: skip
def test_a_flag_sets_its_field(arguments: list[str], read: Any, expected: object) -> None:
    assert read(applied(*arguments)) == expected


def test_by_itself_it_takes_a_worker_for_each_core_but_at_most_eight() -> None:
    cores = len(os.sched_getaffinity(0))
    assert agent_settings("--steer", "none").workers == min(cores, 8)
    assert agent_settings("--steer", "none", "--workers", "0").workers == 0
    text = "apiVersion: pyproxy.io/v1alpha1\nkind: PyproxyConfiguration\nworkers: auto\n"
    assert applied(text=text).pyproxy.workers == AUTO_WORKERS
    assert configz(applied("--workers", "auto"))["pyproxy.io"]["workers"] == "auto"


@pytest.mark.parametrize("text", ["many", "-1", "65", "1.5", ""])
def test_workers_are_a_number_or_auto(text: str) -> None:
    with pytest.raises(ConfigError, match="is neither auto nor a whole number from 0 to 64"):
        applied("--workers", text)


def test_flags_go_before_the_file_and_leave_the_rest_of_it() -> None:
    configuration = applied("--hostname-override", "typed", text=FILE)
    assert configuration.proxy.node_name == "typed"
    assert configuration.proxy.cluster_cidr == (parse_cidr("10.1.0.0/16"),)
    assert applied(text=FILE).proxy.node_name == "from-the-file"


def test_without_flags_the_configuration_is_as_it_was() -> None:
    assert applied() == Configuration()


def test_every_fault_of_the_flags_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as told:
        applied("--bind-address", "x", "--cluster-cidr", "y", "-v", "z", "--drain-timeout", "w")
    assert [fault.split()[0].rstrip(":") for fault in told.value.faults] == [
        "--bind-address",
        "--cluster-cidr",
        "--drain-timeout",
        "--v",
    ]


def test_flags_are_checked_together_as_fields_are() -> None:
    with pytest.raises(ConfigError, match="connectDeadline: '1s' is less than connectTimeout"):
        applied("--connect-timeout", "2", "--connect-deadline", "1")


@pytest.mark.skipif(why_not() is not None, reason=f"{why_not()}")
def test_steering_makes_listeners_transparent_and_keeps_sources() -> None:
    steered = agent_settings("--steer", "nft")
    assert steered.forward.transparent
    assert steered.forward.source_address == "auto"
    assert steered.steer is not None
    assert agent_settings("--steer", "nft", "--source-address", "node").forward.source_address == (
        "node"
    )


def test_without_steering_nothing_is_transparent() -> None:
    plain = agent_settings("--steer", "none")
    assert plain.steer is None
    assert not plain.forward.transparent
    assert plain.forward.source_address == "node"


def test_times_of_udp_flows_come_from_the_flags_and_zero_is_the_default() -> None:
    forward = agent_settings(
        "--steer", "none", "--conntrack-udp-timeout", "7", "--conntrack-udp-timeout-stream", "0"
    ).forward
    assert forward.udp_unreplied_timeout_s == 7.0
    assert forward.udp_replied_timeout_s == 120.0


def test_configz_holds_both_documents_as_they_are_in_force() -> None:
    found = configz(applied("--cluster-cidr", "10.0.0.0/8", "--steer", "nft"))
    assert found["kubeproxy.config.k8s.io"]["clusterCIDR"] == "10.0.0.0/8"
    assert found["kubeproxy.config.k8s.io"]["kind"] == "KubeProxyConfiguration"
    assert found["pyproxy.io"]["steer"] == "nft"


def test_the_control_socket_is_where_it_is_said_to_be_or_nowhere() -> None:
    plain = ("--steer", "none")
    assert agent_settings(*plain).control_sockets[0] == "/run/pyproxy/pyproxy.sock"
    assert agent_settings(*plain, "--control-socket", "/x/y").control_sockets == ("/x/y",)
    assert agent_settings(*plain, "--control-socket", "").control_sockets == ()
