"""deploy/: every kustomization renders, an API server would take it, and it says what it must."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pyproxy import __version__, cli
from pyproxy.app.agent_settings import AgentSettings
from pyproxy.cli.settings import parse_file
from pyproxy.config import Configuration
from pyproxy.errors import ApiError
from pyproxy.source import credentials
from pyproxy.source.apiserver import ApiServerSettings
from tests.support import agents
from tests.support.authorized_api import AuthorizedApi, Permission, permissions
from tests.support.backends import new_address, until
from tests.support.builders import Json, make_node, make_port, make_service
from tests.support.fake_api import FakeApiServer, write_kubeconfig
from tests.support.manifests import (
    DEPLOY,
    FOREIGN,
    ROOT,
    check_schema,
    config_of,
    kubectl,
    of_kind,
    rendered,
)

AGENTS = ["base", "overlays/kind", "overlays/coexist", "overlays/monitoring"]
# kubernetes v1.36, plugin/pkg/auth/authorizer/rbac/bootstrappolicy, system:node-proxier.
NODE_PROXIER = {
    *(
        Permission("", resource, verb)
        for resource in ("services", "endpoints")
        for verb in ("list", "watch")
    ),
    *(Permission("", "nodes", verb) for verb in ("get", "list", "watch")),
    *(
        Permission(group, "events", verb)
        for group in ("", "events.k8s.io")
        for verb in ("create", "patch", "update")
    ),
    *(Permission("networking.k8s.io", "servicecidrs", verb) for verb in ("list", "watch")),
    *(Permission("discovery.k8s.io", "endpointslices", verb) for verb in ("list", "watch")),
}


def pod_of(place: str) -> Json:
    spec: Json = of_kind(rendered(place), "DaemonSet")["spec"]["template"]["spec"]
    return spec


def container_of(place: str) -> Json:
    (container,) = pod_of(place)["containers"]
    return dict(container)


@pytest.mark.parametrize("place", [*AGENTS, "local", "monitoring", "cleanup"])
def test_every_object_is_one_that_an_api_server_takes(place: str) -> None:
    objects = rendered(place)
    assert objects
    for value in objects:
        if value["kind"] not in FOREIGN:
            check_schema(value)


@pytest.mark.parametrize(
    ("kind", "path", "field"),
    [
        ("DaemonSet", ("spec", "template", "spec", "containers", 0), "readynessProbe"),
        ("DaemonSet", ("spec", "updateStrategy", "rollingUpdate"), "surge"),
        ("ClusterRole", ("rules", 0), "resource"),
    ],
)
def test_the_check_refuses_a_field_that_the_api_has_not(
    kind: str, path: tuple[str | int, ...], field: str
) -> None:
    value = yaml.safe_load(yaml.safe_dump(of_kind(rendered("base"), kind)))
    at: Any = value
    for step in path:
        at = at[step]
    at[field] = {}
    with pytest.raises(ValueError, match=field):
        check_schema(value)


@pytest.mark.cluster
@pytest.mark.parametrize("place", ["base", "overlays/kind", "overlays/coexist"])
def test_a_real_api_server_takes_it(place: str) -> None:
    kubeconfig = os.environ.get("PYPROXY_TEST_KUBECONFIG")
    if not kubeconfig:
        pytest.skip("PYPROXY_TEST_KUBECONFIG names no kubeconfig of a cluster to test with")
    command = [kubectl(), "--kubeconfig", kubeconfig, "apply", "--dry-run=server"]
    command += ["--validate=strict", "-k", str(DEPLOY / place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("place", AGENTS)
def test_the_new_agent_of_a_node_may_come_before_the_old_one_goes(place: str) -> None:
    daemonset = of_kind(rendered(place), "DaemonSet")["spec"]
    strategy = daemonset["updateStrategy"]
    assert strategy == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    # With hostNetwork a containerPort is a hostPort, for which a node has room once only
    # (kubernetes, pkg/apis/core/v1/defaults.go, SetDefaults_HostNetwork).
    assert pod_of(place)["hostNetwork"]
    assert "ports" not in container_of(place)
    # The new one finds the old one at its control socket, and takes over.
    (run,) = [volume for volume in pod_of(place)["volumes"] if volume["name"] == "run"]
    assert run["hostPath"] == {"path": "/run/pyproxy", "type": "DirectoryOrCreate"}
    # Until then it must not count as ready, whoever answers on the health port.
    probe = container_of(place)["startupProbe"]["exec"]["command"]
    assert probe == ["pyproxy", "status", "--serving"]


@pytest.mark.parametrize("place", AGENTS)
def test_it_may_do_little(place: str) -> None:
    pod, container = pod_of(place), container_of(place)
    security = container["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_BIND_SERVICE"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["readOnlyRootFilesystem"]
    assert not security["privileged"]
    assert not security["allowPrivilegeEscalation"]
    assert not {"hostPID", "hostIPC", "initContainers"} & pod.keys()
    assert [v["name"] for v in pod["volumes"] if "hostPath" in v] == ["run"]


@pytest.mark.parametrize("place", AGENTS)
def test_it_is_on_every_node_first_and_unthrottled(place: str) -> None:
    pod = pod_of(place)
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["dnsPolicy"] == "Default"
    assert container_of(place)["resources"].keys() == {"requests"}


@pytest.mark.parametrize("place", AGENTS)
def test_the_configuration_is_read_and_the_probes_ask_where_it_listens(
    place: str, tmp_path: Path
) -> None:
    file = config_of(rendered(place), tmp_path)
    configuration, unused = parse_file(str(file))
    assert unused == ()
    container = container_of(place)
    for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/healthz")):
        asked = container[probe]["httpGet"]
        assert (asked["path"], asked["port"]) == (path, configuration.health.port)
    grace_s = pod_of(place)["terminationGracePeriodSeconds"]
    assert grace_s >= configuration.pyproxy.drain_timeout_s + 10
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"/etc/pyproxy", "/run/pyproxy"}
    words = [word.replace("$(HOST_IP)", "::1") for word in container["args"]]
    arguments = cli.parser().parse_args(words)
    assert arguments.config == "/etc/pyproxy/config.yaml"


def test_beside_kube_proxy_it_has_other_ports_and_only_its_own_services(tmp_path: Path) -> None:
    configuration, _ = parse_file(str(config_of(rendered("overlays/coexist"), tmp_path)))
    usual = Configuration()
    assert configuration.pyproxy.service_proxy_name == "pyproxy"
    assert configuration.health.port != usual.health.port
    assert configuration.metrics.port != usual.metrics.port


def api_server_of(place: str) -> Json:
    (source,) = container_of(place)["envFrom"]
    name = source["configMapRef"]["name"]
    (found,) = [o for o in rendered(place) if o["metadata"]["name"] == name]
    return dict(found.get("data") or {})


def test_the_api_servers_address_is_one_value_in_one_place() -> None:
    port = {"KUBERNETES_SERVICE_PORT": "6443"}
    assert api_server_of("base") == {"KUBERNETES_SERVICE_HOST": "the-api-server.invalid"} | port
    assert (
        api_server_of("overlays/kind")
        == {"KUBERNETES_SERVICE_HOST": "pyproxy-control-plane"} | port
    )
    # kube-proxy serves the address that the kubelet tells.
    assert api_server_of("overlays/coexist") == {}


def test_the_image_is_of_this_version() -> None:
    assert container_of("base")["image"] == f"pyproxy:{__version__}"


def test_the_role_is_within_that_of_kube_proxy() -> None:
    granted = set(permissions(of_kind(rendered("base"), "ClusterRole")["rules"]))
    assert granted <= NODE_PROXIER


async def test_the_agent_uses_all_that_the_role_grants_and_needs_no_more(tmp_path: Path) -> None:
    granted = set(permissions(of_kind(rendered("base"), "ClusterRole")["rules"]))
    async with FakeApiServer() as api, AuthorizedApi(api.url, granted) as gate:
        api.faults.watch_list = "refused"  # a list comes by a watch where the server can do that
        api.create("nodes", make_node())
        api.create("services", make_service(cluster_ip=new_address(), ports=[make_port(80)]))
        async with agents.running(_watching(gate.url, tmp_path)) as agent:
            await until(lambda: gate.used == granted or bool(gate.refused))
            await until(lambda: set(agent.metrics.watch_states.values()) == {"watching"})
    assert gate.refused == set()


async def test_without_a_right_that_it_needs_the_agent_says_which(tmp_path: Path) -> None:
    granted = set(permissions(of_kind(rendered("base"), "ClusterRole")["rules"]))
    granted.remove(Permission("discovery.k8s.io", "endpointslices", "watch"))
    async with FakeApiServer() as api, AuthorizedApi(api.url, granted) as gate:
        with pytest.raises(ApiError, match=r"may not watch endpointslices .*ClusterRole"):
            async with agents.running(_watching(gate.url, tmp_path)):
                await asyncio.Event().wait()


def _watching(url: str, directory: Path) -> AgentSettings:
    kubeconfig = write_kubeconfig(directory / "kubeconfig", url)
    api = ApiServerSettings(kubeconfig=str(kubeconfig), node_name="node-1")
    return agents.settings(api=api)


def test_prometheus_finds_the_pods_and_grafana_the_dashboards() -> None:
    objects = rendered("overlays/monitoring")
    monitor = of_kind(objects, "PodMonitor")["spec"]
    labels = of_kind(objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    # The alerts want the job `pyproxy`.
    assert labels[monitor["jobLabel"]] == "pyproxy"
    assert monitor.keys() == {"jobLabel", "selector", "podMetricsEndpoints"}
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint.keys() == {"path", "honorLabels", "relabelings"}
    (dashboards,) = [o for o in objects if o["metadata"].get("labels", {}).get("grafana_dashboard")]
    assert dashboards["data"].keys() == {
        path.name for path in (DEPLOY / "monitoring" / "dashboards").iterdir()
    }


# kind, pkg/apis/config/v1alpha4/types.go.
KIND_FIELDS = {
    "Cluster": {
        "kind",
        "apiVersion",
        "name",
        "nodes",
        "networking",
        "featureGates",
        "runtimeConfig",
    },
    "Networking": {
        *("ipFamily", "apiServerPort", "apiServerAddress", "podSubnet", "serviceSubnet"),
        *("disableDefaultCNI", "kubeProxyMode", "dnsSearch"),
    },
    "Node": {"role", "image", "labels", "extraMounts", "extraPortMappings", "kubeadmConfigPatches"},
    "PortMapping": {"containerPort", "hostPort", "listenAddress", "protocol"},
}


def test_the_kind_cluster_has_two_families_two_zones_and_no_kube_proxy() -> None:
    cluster = yaml.safe_load((ROOT / "kind-config.yaml").read_text())
    assert (cluster["kind"], cluster["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    assert cluster.keys() <= KIND_FIELDS["Cluster"]
    assert cluster["networking"].keys() <= KIND_FIELDS["Networking"]
    assert cluster["networking"] == {"ipFamily": "dual", "kubeProxyMode": "none"}
    nodes = cluster["nodes"]
    assert [node["role"] for node in nodes] == ["control-plane", "worker", "worker"]
    assert all(node.keys() <= KIND_FIELDS["Node"] for node in nodes)
    assert {node["labels"]["topology.kubernetes.io/zone"] for node in nodes[1:]} == {"a", "b"}
    # The address of the API server in the overlay is the name of that node.
    host = api_server_of("overlays/kind")["KUBERNETES_SERVICE_HOST"]
    assert host == f"{cluster['name']}-control-plane"


def smoke_objects() -> list[Json]:
    return list(yaml.safe_load_all((DEPLOY / "kind" / "smoke.yaml").read_text()))


def test_the_smoke_tests_node_ports_are_those_that_kind_passes_on() -> None:
    cluster = yaml.safe_load((ROOT / "kind-config.yaml").read_text())
    mappings = cluster["nodes"][0]["extraPortMappings"]
    assert all(mapping.keys() <= KIND_FIELDS["PortMapping"] for mapping in mappings)
    assert all(mapping["containerPort"] == mapping["hostPort"] for mapping in mappings)
    asked = {
        (port.get("protocol", "TCP"), port["nodePort"])
        for value in smoke_objects()
        if value["kind"] == "Service"
        for port in value["spec"]["ports"]
        if "nodePort" in port
    }
    assert {(mapping["protocol"], mapping["hostPort"]) for mapping in mappings} == asked


def test_an_api_server_takes_the_objects_of_the_smoke_test() -> None:
    for value in smoke_objects():
        check_schema(value)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("image", "docker build"),
        ("kind-up", "kind create cluster --config kind-config.yaml"),
        # kind load docker-image fails with Docker's containerd store (kind#3795).
        ("kind-load", "kind load image-archive"),
        ("kind-deploy", "apply -k deploy/overlays/kind"),
        ("kind-smoke", "deploy/kind/smoke.sh"),
        ("kind-down", "kind delete cluster --name pyproxy"),
    ],
)
def test_make_knows_the_target(target: str, words: str) -> None:
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


def scripts() -> list[Path]:
    return sorted(path for path in DEPLOY.rglob("*.sh"))


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["sh", "-n", str(script)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(script)], check=True)


def test_the_smoke_tests_scripts_ask_and_answer(tmp_path: Path) -> None:
    (data,) = [value["data"] for value in smoke_objects() if value["kind"] == "ConfigMap"]
    for name, text in data.items():
        (tmp_path / name).write_text(text)
    ask = [sys.executable, str(tmp_path / "ask.py"), "http://127.0.0.1:1/"]
    refused = subprocess.run(ask, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "refused" in refused.stdout


KUBECTL = """#!/bin/sh
# A cluster in which all is well, but for what $BROKEN says.
case "$*" in
*"$BROKEN"*) echo "no $BROKEN today" >&2; exit 1 ;;
*"delete -f"*) touch "$GONE" ;;
*"clusterIPs[0]"*) echo 10.96.0.7 ;;
*"clusterIPs[1]"*) echo fd00:10:96::7 ;;
*"get nodes"*) echo 172.18.0.2 fd00::2 172.18.0.3 ;;
*"get pods"*) echo pod/pyproxy-1 pod/pyproxy-2 ;;
*"scale deploy/web --replicas=0"*) touch "$GONE.scaled" ;;
*"scale deploy/web --replicas=2"*) rm -f "$GONE.scaled" ;;
*ask.py*)
    [ -e "$GONE.scaled" ] && echo "failed: Connection refused" && exit 1
    echo web-1; echo web-2 ;;
esac
"""


@pytest.mark.parametrize(
    ("broken", "failing"),
    [
        ("no such thing", set()),
        ("rollout status deploy/coredns", {"the cluster's DNS is there"}),
        ("pyproxy status", {"an agent serves on every node"}),
        ("http://[fd00:10:96::7]/", {"a pod reaches the ClusterIP fd00:10:96::7"}),
        ("rollout restart", {"a rolling restart of the agents loses no request"}),
    ],
)
def test_the_smoke_test_tells_what_does_not_work_and_cleans_up(
    tmp_path: Path, broken: str, failing: set[str]
) -> None:
    for name, text in (("kubectl", KUBECTL), ("curl", "#!/bin/sh\n"), ("python3", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(DEPLOY / "kind" / "smoke.sh")],
        env={"PATH": path, "BROKEN": broken, "GONE": str(tmp_path / "gone")},
        capture_output=True,
        text=True,
        check=False,
    )
    claims = [
        line.split("  ", 1) for line in done.stdout.splitlines() if line[:4] in ("PASS", "FAIL")
    ]
    assert {words for verdict, words in claims if verdict == "FAIL"} == failing
    assert len(claims) == 14
    assert done.returncode == bool(failing)
    assert (tmp_path / "gone").exists()


def test_the_pages_commands_say_what_they_need_or_are_known() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        assert block.startswith("# needs "), block
    for target in re.findall(r"^make ([\w-]+)", "".join(blocks), re.MULTILINE):
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)
    places = re.findall(r"-k (deploy/[\w/]+)", page)
    assert set(places) >= {"deploy/base", "deploy/cleanup", "deploy/overlays/coexist"}
    for place in [*places, *re.findall(r"^\| `(deploy/[\w/]+)`", page, re.MULTILINE)]:
        assert rendered(place.removeprefix("deploy/"))


def test_the_page_says_what_the_log_says_of_the_api_servers_address() -> None:
    page = " ".join((ROOT / "docs" / "install.md").read_text().split())
    assert credentials.ADDRESS_OF_POD in page
