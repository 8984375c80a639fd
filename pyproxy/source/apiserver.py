"""The API server as a source of events: Services, EndpointSlices, ServiceCIDRs and the own Node.

It decides what is watched and with which selectors (PARITY 1.1 to 1.3). How a watch is kept up is
`source.watcher`'s, how the protocol goes `core.listwatch`'s.
"""

import asyncio
import random as random_module
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import aiohttp
import msgspec

from pyproxy.core.apiservers import ApiServers
from pyproxy.core.merged_lists import MergedLists
from pyproxy.errors import PyproxyError
from pyproxy.metrics import Metrics
from pyproxy.model.events import Event, Listed, Resource
from pyproxy.model.service import HEADLESS_LABEL, PROXY_NAME_LABEL
from pyproxy.source.client import ApiClient
from pyproxy.source.credentials import SERVICE_ACCOUNT_DIR, CredentialSettings
from pyproxy.source.watcher import Watcher, WatchSettings, WatchTarget


class Selection(msgspec.Struct, frozen=True):
    """The Services that a person wants, of the namespaces given; of all without any.

    labels: a label selector of the API, "" for all.
    """

    namespaces: tuple[str, ...] = ()
    labels: str = ""


class ApiServerSettings(WatchSettings, frozen=True, kw_only=True):
    """Which API server, as whom, and what of it; sizes and times are those of WatchSettings.

    kubeconfig: a file, or several joined by ":"; without one it is $KUBECONFIG, then the pod's
    service account, then ~/.kube/config. context: of the kubeconfig; without one, the current one.
    master: a URL that replaces the server's.
    node_name: the Node to watch; "" watches none. proxy_name: watch the Services with this
    service-proxy-name label; None: those without one.
    selection: watch these Services, headless ones too, instead of what a node proxies.
    token_refresh_s: how old a token read from a file may get before the file is read again.
    """

    kubeconfig: str | None = None
    context: str | None = None
    master: str | None = None
    node_name: str = ""
    proxy_name: str | None = None
    selection: Selection | None = None
    service_account_dir: str = SERVICE_ACCOUNT_DIR
    token_refresh_s: float = 60.0
    connect_timeout_s: float = 10.0


class ApiServerSource:
    """Publishes what the API server has, from a first complete list of each resource on.

    `publish` is called in the thread of the loop and must not wait.
    """

    def __init__(
        self,
        settings: ApiServerSettings,
        publish: Callable[[Event], None],
        metrics: Metrics,
        *,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._settings = settings
        self._publish = publish
        self._metrics = metrics
        self._random = random
        self._servers = ApiServers()
        self._lists: dict[Resource, MergedLists] = {}
        self._client: ApiClient | None = None
        self._is_open = asyncio.Event()

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Post JSON to the API server, once `run` has reached it; return status and body.

        Raises ApiError without an answer, ConfigError when credentials cannot be renewed.
        """
        await self._is_open.wait()
        assert self._client is not None
        return await self._client.post(path, body)

    async def websocket(
        self, path: str, query: Mapping[str, str], protocols: Sequence[str]
    ) -> aiohttp.ClientWebSocketResponse:
        """Open a websocket to the API server, once `run` has begun; see ApiClient.websocket."""
        await self._is_open.wait()
        assert self._client is not None
        return await self._client.websocket(path, query, protocols)

    async def names(self, path: str) -> set[str] | None:
        """Return the names of the objects of a list, once `run` has begun.

        None when the API server does not tell. Raises ConfigError without credentials.
        """
        await self._is_open.wait()
        assert self._client is not None
        return await self._client.names(path)

    async def run(self) -> None:
        """Run until cancelled.

        Raises ConfigError when there are no credentials, ApiError when they do not suffice.
        """
        settings = self._settings
        credentials = CredentialSettings(
            kubeconfig=settings.kubeconfig,
            context=settings.context,
            master=settings.master,
            service_account_dir=settings.service_account_dir,
            token_refresh_s=settings.token_refresh_s,
        )
        async with ApiClient(
            credentials,
            self._servers,
            connect_timeout_s=settings.connect_timeout_s,
            counts=self._metrics.api_requests,
        ) as client:
            self._client = client
            self._is_open.set()
            if not settings.node_name:
                self._metrics.watch_states["nodes"] = "absent"
                self._publish(Listed("nodes", ()))
            try:
                async with asyncio.TaskGroup() as tasks:
                    targets = watch_targets(settings)
                    self._lists = merged_lists(targets)
                    for target in targets:
                        tasks.create_task(self._watcher(target, client).run(), name=target.path)
            except BaseExceptionGroup as group:
                fatal, faults = group.split(PyproxyError)
                if fatal is None or faults is not None:
                    raise
                # Watches often fail together, for one reason: one line tells it.
                raise fatal.exceptions[0] from None

    def _watcher(self, target: WatchTarget, client: ApiClient) -> Watcher:
        publish = partial(self._pass_on, target.namespace)
        return Watcher(target, self._settings, client, publish, self._metrics, self._random)

    def _pass_on(self, namespace: str, part: Event) -> None:
        event = self._lists[part.resource].merge(namespace, part)
        if event is not None:
            self._servers.observe(event)
            self._publish(event)


def merged_lists(targets: list[WatchTarget]) -> dict[Resource, MergedLists]:
    """Return what makes whole lists of what each target lists, by resource."""
    namespaces: dict[Resource, list[str]] = {}
    for target in targets:
        namespaces.setdefault(target.resource, []).append(target.namespace)
    return {resource: MergedLists(resource, parts) for resource, parts in namespaces.items()}


def watch_targets(settings: ApiServerSettings) -> list[WatchTarget]:
    """Return what to watch."""
    if settings.selection is not None:
        return _selected(settings.selection)
    proxy_name = settings.proxy_name
    label = f"!{PROXY_NAME_LABEL}" if proxy_name is None else f"{PROXY_NAME_LABEL}={proxy_name}"
    targets = [
        WatchTarget(
            "services",
            "",
            "/api/v1/services",
            {"labelSelector": label, "fieldSelector": "spec.clusterIP!=None"},
            when_missing="fatal",
        ),
        WatchTarget(
            "endpointslices",
            "discovery.k8s.io",
            "/apis/discovery.k8s.io/v1/endpointslices",
            {"labelSelector": f"!{HEADLESS_LABEL}"},
            when_missing="fatal",
        ),
        WatchTarget(
            "servicecidrs",
            "networking.k8s.io",
            "/apis/networking.k8s.io/v1/servicecidrs",
            {},
            when_missing="absent",
        ),
    ]
    if settings.node_name:
        targets.append(
            WatchTarget(
                "nodes",
                "",
                "/api/v1/nodes",
                {"fieldSelector": f"metadata.name={settings.node_name}"},
                when_missing="retried",
            )
        )
    return targets


def _selected(selection: Selection) -> list[WatchTarget]:
    """What a person wants to reach. A slice has its Service's labels only where Kubernetes made it.

    So all slices of a namespace are watched, whatever the label selector says.
    """
    targets = []
    for namespace in selection.namespaces or ("",):
        within = f"/namespaces/{namespace}" if namespace else ""
        labels = {"labelSelector": selection.labels} if selection.labels else {}
        targets += [
            WatchTarget(
                "services", "", f"/api/v1{within}/services", labels, "fatal", namespace=namespace
            ),
            WatchTarget(
                "endpointslices",
                "discovery.k8s.io",
                f"/apis/discovery.k8s.io/v1{within}/endpointslices",
                {},
                "fatal",
                namespace=namespace,
            ),
        ]
    return targets
