"""Who we are to the API server, where it is, and whom we trust there.

The package `kubernetes.aio.config` reads kubeconfig files, runs exec plugins, refreshes OIDC tokens
and reads a pod's service account. What it finds becomes a `Credentials` value; requests are made by
our own aiohttp session. It takes 0.2 s and 21 MB to import, so that is done at the first load, and
in a thread.

A load reads everything anew; nothing is remembered from the one before, so that a rotated token, a
renewed certificate or an edited kubeconfig is seen.
"""

import asyncio
import difflib
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec

from pyproxy.errors import ConfigError

SERVICE_ACCOUNT_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"
_DEFAULT_KUBECONFIG = "~/.kube/config"
# A pod is given the ClusterIP of the API server, which on a node without kube-proxy works only once
# we do. So the DaemonSet of deploy/base sets these.
ADDRESS_OF_POD = (
    "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT of this pod must be the API server's own"
    " address, not its ClusterIP: set them in deploy/base/apiserver.env (ConfigMap"
    " pyproxy-apiserver)"
)
# Loaded again so long before its end, so that no request is made with what just ran out.
_EXPIRY_MARGIN = timedelta(seconds=30)
# The library's parser takes much for granted: a list where it expects a mapping gives any of these.
_FAULTS = (OSError, LookupError, TypeError, AttributeError, ValueError)


class CredentialSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where credentials come from.

    kubeconfig: a file, or several joined by ":"; without one it is $KUBECONFIG, then the pod's
    service account, then ~/.kube/config. context: of the kubeconfig; without one, the current one.
    master: a URL that replaces the server's.
    token_refresh_s: how old a token read from a file may get before the file is read again.
    """

    kubeconfig: str | None = None
    context: str | None = None
    master: str | None = None
    service_account_dir: str = SERVICE_ACCOUNT_DIR
    token_refresh_s: float = 60.0


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What a request needs. Compared by identity: every load makes a new one.

    url: without a slash at its end. tls: None for plain HTTP. authorization: the header, or "".
    server_name: the name in the server's certificate where it is not the URL's host, or None.
    stale_at: when to load again, or None: only when the server refuses them.
    origin: where they come from, for a person. address_fix: what to set when nobody, or somebody
    else, is at the URL; "" where origin says it.
    """

    url: str
    origin: str
    address_fix: str = ""
    tls: ssl.SSLContext | None = None
    has_client_certificate: bool = False
    authorization: str = ""
    server_name: str | None = None
    proxy: str | None = None
    stale_at: datetime | None = None


class Context(NamedTuple):
    """The name of a context, and the namespace that it is for."""

    name: str
    namespace: str


async def context_of(settings: CredentialSettings) -> Context:
    """Return the context that `load_credentials` would take. Raises ConfigError."""
    kubeconfig = settings.kubeconfig or os.environ.get("KUBECONFIG", "")
    is_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    if not (kubeconfig or settings.context) and (is_pod or not _has_default_kubeconfig()):
        return Context("", _namespace_of_pod(settings) if is_pod else "default")
    paths = kubeconfig or _DEFAULT_KUBECONFIG
    kube_config = await asyncio.to_thread(_import_kube_config)
    try:
        config = await asyncio.to_thread(_read_kubeconfig, kube_config, paths)
        name = _context_name(config, paths, settings.context)
        context = config["contexts"].get_with_name(name)["context"]
        return Context(name, context.safe_get("namespace") or "default")
    except (kube_config.ConfigException, *_FAULTS) as fault:
        raise ConfigError(f"kubeconfig {paths} cannot be used: {_one_line(fault)}") from fault


def _namespace_of_pod(settings: CredentialSettings) -> str:
    try:
        return Path(settings.service_account_dir, "namespace").read_text().strip() or "default"
    except OSError:
        return "default"


async def load_credentials(settings: CredentialSettings) -> Credentials:
    """Load the credentials anew; may wait for an exec plugin or an OIDC server.

    Raises ConfigError that names the file (or the pod's directory) and the fault.
    """
    kubeconfig = settings.kubeconfig or os.environ.get("KUBECONFIG", "")
    if kubeconfig or settings.context:
        return await _from_kubeconfig(kubeconfig or _DEFAULT_KUBECONFIG, settings)
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return await asyncio.to_thread(_from_service_account, settings)
    if _has_default_kubeconfig():
        return await _from_kubeconfig(_DEFAULT_KUBECONFIG, settings)
    if settings.master:
        return Credentials(
            url=settings.master.rstrip("/"),
            tls=_tls_context(SimpleNamespace(host=settings.master)),
            origin="no credentials (only a master URL is given)",
        )
    raise ConfigError(
        f"no kubeconfig is given, {_DEFAULT_KUBECONFIG} does not exist, and this is no pod "
        "(KUBERNETES_SERVICE_HOST is not set): give --kubeconfig FILE, or --manifests PATH"
    )


def _has_default_kubeconfig() -> bool:
    try:
        return Path(_DEFAULT_KUBECONFIG).expanduser().exists()
    except (OSError, RuntimeError):  # a home that cannot be looked into, or none
        return False


def _from_service_account(settings: CredentialSettings) -> Credentials:
    from kubernetes.aio.config.config_exception import ConfigException
    from kubernetes.aio.config.incluster_config import InClusterConfigLoader

    directory = settings.service_account_dir
    loaded = SimpleNamespace(api_key={}, host="")
    try:
        # Without its own refresh, which sets the host back (kubernetes.aio, _refresh_api_key).
        InClusterConfigLoader(
            token_filename=f"{directory}/token",
            cert_filename=f"{directory}/ca.crt",
            try_refresh_token=False,
        ).load_and_set(loaded)
        return _credentials(
            loaded,
            settings,
            origin=f"the service account of this pod ({directory})",
            address_fix="" if settings.master else ADDRESS_OF_POD,
            stale_at=datetime.now(UTC) + timedelta(seconds=settings.token_refresh_s),
        )
    except (ConfigException, *_FAULTS) as fault:
        raise ConfigError(
            f"the service account of this pod ({directory}) cannot be used: {fault}"
        ) from fault


async def _from_kubeconfig(paths: str, settings: CredentialSettings) -> Credentials:
    kube_config = await asyncio.to_thread(_import_kube_config)
    loaded = SimpleNamespace(api_key={}, host="")
    try:
        config = await asyncio.to_thread(_read_kubeconfig, kube_config, paths)
        context = _context_name(config, paths, settings.context)
        user = _user_of(config, context)
        loader = kube_config.KubeConfigLoader(config, active_context=context, config_base_path=None)
        if loader._user is None:  # the library takes a missing user for an error with https
            loader._user = kube_config.ConfigNode("user", {}, paths)
        await loader.load_and_set(loaded)
        if "exec" in user and not (loaded.api_key or getattr(loaded, "cert_file", None)):
            command = user["exec"].get("command")
            raise ConfigError(
                f"kubeconfig {paths}, context {context!r}: the exec plugin {command!r} gave no "
                "credentials (what it said is in the log)"
            )
        return _credentials(
            loaded,
            settings,
            origin=f"kubeconfig {paths}, context {context!r}",
            stale_at=_stale_at(user, loader, settings),
        )
    except (kube_config.ConfigException, *_FAULTS) as fault:
        raise ConfigError(f"kubeconfig {paths} cannot be used: {_one_line(fault)}") from fault
    finally:
        # The library leaves keys in /tmp and fails when they are swept away; they are loaded now.
        kube_config._cleanup_temp_files()


def _import_kube_config() -> Any:
    from kubernetes.aio.config import kube_config

    return kube_config


def _read_kubeconfig(kube_config: Any, paths: str) -> Any:
    """Read and merge the files; blocks, and takes a second for a big one (PyYAML)."""
    import yaml

    names = [Path(path).expanduser() for path in paths.split(os.pathsep) if path]
    if not any(name.exists() for name in names):
        raise ConfigError(f"kubeconfig {paths} does not exist")
    for name in names:
        if name.exists():
            with name.open("rb"):  # the library's message for a file without permission is bare
                pass
    try:
        return kube_config.KubeConfigMerger(paths).config
    except yaml.YAMLError as fault:
        raise ConfigError(f"kubeconfig {paths} is no YAML: {_one_line(fault)}") from fault


def _context_name(config: Any, paths: str, wanted: str | None) -> str:
    names = [context["name"] for context in config["contexts"].value]
    name = wanted or config.value.get("current-context") or ""
    if name in names:
        return str(name)
    listed = ", ".join(sorted(names)) or "none"
    if not name:
        raise ConfigError(f"kubeconfig {paths} has no current context; it has: {listed}")
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(f"kubeconfig {paths} has no context {name!r}{hint}; it has: {listed}")


def _user_of(config: Any, context: str) -> dict[str, Any]:
    """The user section of a context; empty when there is none."""
    wanted = config["contexts"].get_with_name(context)["context"].safe_get("user")
    for user in config.value["users"]:
        if user["name"] == wanted:
            return user.value.get("user") or {}
    return {}


def _stale_at(user: dict[str, Any], loader: Any, settings: CredentialSettings) -> datetime | None:
    expiry: datetime | None = getattr(loader, "exec_plugin_expiry", None)
    if expiry is not None:
        return expiry - _EXPIRY_MARGIN
    if "tokenFile" in user:
        return datetime.now(UTC) + timedelta(seconds=settings.token_refresh_s)
    return None


def _credentials(
    loaded: Any,
    settings: CredentialSettings,
    *,
    origin: str,
    stale_at: datetime | None,
    address_fix: str = "",
) -> Credentials:
    url = (settings.master or loaded.host).rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{origin}: the server {url!r} is no http:// or https:// URL")
    proxy = getattr(loaded, "proxy", None)
    if proxy and not proxy.startswith(("http://", "https://")):
        raise ConfigError(f"{origin}: the proxy-url {proxy!r} is not supported; http:// ones are")
    # A token file ends with a line feed as often as not; a header must not.
    authorization = loaded.api_key.get("BearerToken", "").strip()
    if not authorization.isprintable():
        raise ConfigError(f"{origin}: the token has a line feed or a control character within it")
    loaded.host = url
    return Credentials(
        url=url,
        origin=origin,
        address_fix=address_fix,
        tls=_tls_context(loaded),
        has_client_certificate=bool(getattr(loaded, "cert_file", None)),
        authorization=authorization,
        server_name=getattr(loaded, "tls_server_name", None) or None,
        proxy=proxy or None,
        stale_at=stale_at,
    )


def _tls_context(loaded: Any) -> ssl.SSLContext | None:
    if not loaded.host.startswith("https://"):
        return None
    context = ssl.create_default_context(cafile=getattr(loaded, "ssl_ca_cert", None))
    # Python 3.13 wants an Authority Key Identifier, which many clusters' certificates do not have;
    # the other Kubernetes clients do not ask for it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not getattr(loaded, "verify_ssl", True):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    cert_file = getattr(loaded, "cert_file", None)
    if cert_file:
        context.load_cert_chain(cert_file, getattr(loaded, "key_file", None))
    return context


def _one_line(fault: Exception) -> str:
    return " ".join(f"{type(fault).__name__}: {fault}".split())
