"""`pyproxy explain` as a command: what it prints, and its exit status."""

import io
import json
import logging
import sys
from pathlib import Path

import pytest
import yaml

from pyproxy.cli import run
from tests.support.builders import (
    CLIENT,
    CLUSTER_IP,
    LB_IP,
    NODE,
    NODE_IP,
    NODE_IP_ALT,
    NODE_PORT,
    POD,
    Json,
    load_balancer,
    local,
    make_node,
    make_port,
    make_service,
    make_slice,
    remote,
)

VIP = f"{CLUSTER_IP}:80"
CONFIG = (
    "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
    "clusterCIDR: 10.0.0.0/8\n"
)


class Command:
    """Runs the command on manifests in a directory of its own."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.manifest = directory / "objects.yaml"
        self.config = directory / "config.yaml"
        self._capsys = capsys
        self.holds(load_balancer(), make_slice(local(), remote()), make_node())
        self.config.write_text(CONFIG)

    def holds(self, *objects: Json) -> None:
        self.manifest.write_text(yaml.safe_dump_all(objects))

    def __call__(self, *words: str, with_manifest: bool = True) -> tuple[int, str, str]:
        """Return the status, standard output and standard error."""
        manifests = ["--manifests", str(self.manifest)] if with_manifest else []
        status = run(["explain", *words, *manifests])
        out, err = self._capsys.readouterr()
        return status, out, err

    def json(self, *words: str) -> list[Json]:
        _, out, _ = self(*words, "-o", "json", "--node", NODE, "--config", str(self.config))
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


def test_json_is_one_object_a_line_in_the_order_of_the_targets(explain: Command) -> None:
    answers = explain.json(
        f"{LB_IP}:80,from={CLIENT}", f"{VIP},from={POD}", "9.9.9.9:9", "default/web", "--from", POD
    )
    assert [answer["action"] for answer in answers] == ["forward", "forward", "none", "forward"]
    assert [answer["source"] for answer in answers] == ["node", "client", None, "client"]
    assert answers[1]["target"] == {"address": CLUSTER_IP, "port": 80, "protocol": "TCP"}
    assert answers[3]["frontends"][0]["frontend"] == "ClusterIP"


@pytest.mark.parametrize(
    ("targets", "expected"),
    [([VIP], 0), ([VIP, "default/web"], 0), (["9.9.9.9:9"], 1), ([VIP, f"{CLUSTER_IP}:81"], 1)],
)
def test_the_status_is_0_when_every_target_is_forwarded_and_else_1(
    explain: Command, targets: list[str], expected: int
) -> None:
    for output in ("text", "json"):
        assert explain(*targets, "-o", output)[0] == expected


def test_the_node_gives_zone_addresses_and_pod_networks(explain: Command) -> None:
    explain.config.write_text(CONFIG + "detectLocalMode: NodeCIDR\n")
    explain.holds(
        load_balancer(externalTrafficPolicy="Local"),
        make_slice(
            local(zones=("zone-a",)), remote(zones=("zone-b",)), remote("10.180.0.3", zones=("z",))
        ),
        make_node(pod_cidrs=["10.0.0.0/24"]),
    )
    here, outside, node_port = explain.json(
        f"{VIP},from={POD}", f"{VIP},from={CLIENT}", f"{NODE_IP}:{NODE_PORT},from={CLIENT}"
    )
    assert (here["endpoints"], here["source"]) == (["10.180.0.1:80"], "client")
    assert outside["source"] == "node"
    assert (node_port["endpoints"], node_port["source"]) == (["10.180.0.1:80"], "client")


def test_local_addresses_are_the_nodes_loopback_and_those_given(explain: Command) -> None:
    node_port = f"{NODE_IP_ALT}:{NODE_PORT}"
    assert explain.json(node_port)[0]["reason"] == "AddressNotServed"
    assert explain.json(node_port, "--local-address", NODE_IP_ALT)[0]["action"] == "forward"
    assert explain.json(f"127.0.0.1:{NODE_PORT}", f"[::1]:{NODE_PORT}")[0]["action"] == "forward"


def test_the_configuration_names_the_node_unless_the_command_does(explain: Command) -> None:
    explain.config.write_text(CONFIG + f"hostnameOverride: {NODE}\n")
    explain.holds(make_service(internalTrafficPolicy="Local"), make_slice(local()), make_node())
    words = [VIP, "--config", str(explain.config)]
    assert explain(*words)[0] == 0
    status, _, err = explain(*words, "--node", "node-9")
    assert status == 1
    assert "node node-9: the manifests hold no such Node" in err


def test_fields_without_effect_are_logged(
    explain: Command, caplog: pytest.LogCaptureFixture
) -> None:
    explain.config.write_text(CONFIG + "oomScoreAdj: 1\n")
    with caplog.at_level(logging.INFO):
        assert explain(VIP, "--config", str(explain.config))[0] == 0
    assert f"{explain.config}: oomScoreAdj has no effect here" in caplog.text


def test_text_tells_each_check_and_what_to_mend(explain: Command) -> None:
    status, out, err = explain(f"{VIP},from={POD}", "9.9.9.9:9")
    assert (status, err) == (1, "")
    assert out.startswith(f"{VIP}/TCP from {POD}\n  forwarded to 10.180.0.1:80, 10.180.0.2:80")
    assert "\n    ✓ Address " in out
    assert "\n\n9.9.9.9:9/TCP\n  not proxied: NotAService\n    ✗ Address " in out
    assert "fix: check the address and the port" in out


def test_text_by_name_tells_each_address(explain: Command) -> None:
    _, out, _ = explain("default/web")
    assert out.startswith(f"default/web\n  {VIP}/TCP\n    forwarded to")
    assert f"\n  {LB_IP}:80/TCP\n" in out


def test_text_tells_rejection_dropping_and_affinity(explain: Command) -> None:
    explain.holds(
        load_balancer(
            internalTrafficPolicy="Local",
            externalTrafficPolicy="Cluster",
            sessionAffinity="ClientIP",
        ),
        make_service("empty", cluster_ip="172.30.0.42", ports=[make_port()]),
        make_slice(remote()),
    )
    _, out, _ = explain(VIP, "172.30.0.42:80", f"{LB_IP}:80")
    assert "dropped in silence (the client times out): NoLocalEndpoint" in out
    assert "rejected at once (connection refused): NoEndpointSlice" in out
    assert "with the node's address as its source; a client keeps its endpoint for 10800 s" in out


def test_text_without_unicode_has_plain_marks(
    explain: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", plain)
    explain(VIP, "9.9.9.9:9")
    plain.flush()
    out = plain.buffer.getvalue().decode("ascii")
    assert "  ok Address" in out
    assert "  NO Address" in out


# --- wrong usage, unreadable input -------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], "explain needs a TARGET; --manifests takes every word after it"),
        (["10.96.0.1"], "has no port of 1 to 65535"),
        ([VIP, "--from", "x"], "from=x: 'x' is not an IP address"),
        ([VIP, "--local-address", "x"], "--local-address x: 'x' is not an IP address"),
        ([VIP, "--config", "/no/such"], "/no/such: No such file or directory"),
        ([VIP, "--manifests", "/no/such"], "manifests /no/such: No such file or directory"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_why(
    explain: Command, words: list[str], fault: str
) -> None:
    status, out, err = explain(*words)
    assert (status, out) == (2, "")
    assert err.startswith("pyproxy: ")
    assert fault in err


def test_without_manifests_it_asks_an_agent(explain: Command, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nobody.sock")
    status, out, err = explain(VIP, "--control-socket", nowhere, with_manifest=False)
    assert (status, out) == (2, "")
    assert f"no agent answers at {nowhere}" in err


def test_an_agent_is_asked_about_its_own_node_only(explain: Command) -> None:
    status, _, err = explain(VIP, "--node", "node-2", with_manifest=False)
    assert status == 2
    assert "--manifests" in err


@pytest.mark.parametrize("words", [["--nonsense"], ["-o", "xml"]])
def test_unknown_options_end_with_2(explain: Command, words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        explain(VIP, *words)
    assert caught.value.code == 2


def test_a_file_that_is_no_yaml_ends_with_2_and_its_line(explain: Command) -> None:
    explain.manifest.write_text("a: b\nc: [\n")
    status, _, err = explain(VIP)
    assert status == 2
    assert err.startswith(f"pyproxy: {explain.manifest}:3: not YAML: ")


def test_every_fault_of_a_configuration_is_told_with_the_file(explain: Command) -> None:
    explain.config.write_text(CONFIG + "bindAddress: x\nnodePortAddresses: [y]\n")
    status, _, err = explain(VIP, "--config", str(explain.config))
    assert status == 2
    lines = err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"pyproxy: {explain.config}: ") for line in lines)
    explain.config.write_bytes(b"\xff")
    assert explain(VIP, "--config", str(explain.config))[0] == 2


def test_bad_objects_are_told_and_the_others_answer(explain: Command) -> None:
    explain.holds(
        make_service("bad", ports=[{"port": "http"}]),
        make_service("zero", cluster_ip="172.30.0.42", ports=[make_port(0)]),
        make_slice("10.0.0.999", "10.180.0.9", service="ghost"),
        make_service(),
        make_slice(local()),
    )
    status, out, err = explain(VIP)
    assert status == 0
    assert "forwarded to 10.180.0.1:80" in out
    assert f"{explain.manifest}:1: services: object default/bad cannot be read" in err
    assert "Service default/zero: spec.ports: port 0 is not within 1 to 65535" in err
    assert (
        "EndpointSlice default/ghost-1: endpoints.addresses: '10.0.0.999' is not an IP address"
        in err
    )


def test_two_services_with_one_external_ip_are_told(explain: Command) -> None:
    explain.holds(
        make_service("a", cluster_ip="172.30.0.1", externalIPs=["192.168.99.11"]),
        make_service("b", cluster_ip="172.30.0.2", externalIPs=["192.168.99.11"]),
    )
    status, out, err = explain("default/b")
    assert status == 1
    assert "192.168.99.11:80/TCP is claimed by default/a:http, default/b:http" in err
    assert "not proxied: AddressContested" in out
