"""Credentials: where they come from, what is wrong with them, and that they can be renewed."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from pyproxy.core.apiservers import ApiServers
from pyproxy.errors import ApiError, ConfigError
from pyproxy.source.client import ApiClient
from pyproxy.source.credentials import CredentialSettings, load_credentials
from tests.support.fake_api import FakeApiServer, write_kubeconfig
from tests.support.fake_api_source import FAST, run_source, running_source, service
from tests.support.fake_api_tls import Tls


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
async def api() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer(token="first") as server:
        server.create("services", service("web"))
        yield server


def with_settings(**changes: Any) -> Any:
    return msgspec.structs.replace(FAST, **changes)


async def assert_it_watches(api: FakeApiServer, kubeconfig: Path, settings: Any = FAST) -> None:
    async with running_source(kubeconfig, settings) as source:
        await source.until_listed("services")
        assert source.names("services") == {"web"}


async def test_a_token_of_the_kubeconfig(api: FakeApiServer, tmp_path: Path) -> None:
    await assert_it_watches(
        api, write_kubeconfig(tmp_path / "config", api.url, user={"token": "first"})
    )


async def test_a_rotated_token_is_read_from_its_file_again(
    api: FakeApiServer, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("first\n")  # with the line feed that editors and echo leave
    config = write_kubeconfig(tmp_path / "config", api.url, user={"tokenFile": str(token_file)})
    async with running_source(config) as source:
        await source.until_listed("services")
        api.token = "second"
        token_file.write_text("second\n")
        api.break_watches()
        api.create("services", service("new"))
        await source.until(lambda: source.names("services") == {"web", "new"})
        assert source.lists("services") == 1


async def test_a_token_that_comes_late_is_waited_for_once_listed(
    api: FakeApiServer, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("first")
    config = write_kubeconfig(tmp_path / "config", api.url, user={"tokenFile": str(token_file)})
    async with running_source(config) as source:
        await source.until_listed("services", "endpointslices", "servicecidrs")
        api.token = "second"
        asked = len(api.asked)
        api.break_watches()
        await api.until(lambda: len(api.asked) > asked + 12)
        token_file.unlink()  # and while it is away, too
        api.end_watches()
        token_file.write_text("second")
        api.create("services", service("new"))
        await source.until(lambda: source.names("services") == {"web", "new"})


async def test_a_stale_token_is_renewed_before_it_is_refused(
    api: FakeApiServer, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("first")
    config = write_kubeconfig(tmp_path / "config", api.url, user={"tokenFile": str(token_file)})
    async with running_source(config, with_settings(token_refresh_s=0.0)) as source:
        await source.until_listed("services", "endpointslices", "servicecidrs")
        token_file.write_text("second")
        api.token = "second"
        api.end_watches("services")
        await api.until(lambda: api.count_asked("services", "watch") == 2)
        assert api.asked[-1].authorization == "Bearer second"
        assert "unauthorized" not in source.restarts("services")


@pytest.mark.parametrize("token_refresh_s", [0.0, 1000.0])
async def test_credentials_that_cannot_be_renewed_for_a_while_are_waited_for(
    api: FakeApiServer, tmp_path: Path, token_refresh_s: float
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("first")
    config = write_kubeconfig(tmp_path / "config", api.url, user={"tokenFile": str(token_file)})
    async with running_source(config, with_settings(token_refresh_s=token_refresh_s)) as source:
        await source.until_listed("services", "endpointslices", "servicecidrs")
        token_file.unlink()
        api.token = "second"
        api.break_watches()
        reason = "unauthorized" if token_refresh_s else "credentials"
        await source.until_restarted("services", reason, 3)
        api.create("services", service("new"))
        token_file.write_text("second")
        await source.until(lambda: source.names("services") == {"web", "new"})
        assert source.lists("services") == 1


async def test_a_token_with_a_line_feed_within_it_is_refused(tmp_path: Path) -> None:
    config = write_kubeconfig(tmp_path / "config", "http://127.0.0.1:1", user={"token": "a\nb"})
    with pytest.raises(ConfigError, match="the token has a line feed"):
        await run_source(config)


async def test_credentials_that_are_refused_from_the_start_are_fatal(
    api: FakeApiServer, tmp_path: Path
) -> None:
    config = write_kubeconfig(tmp_path / "config", api.url, user={"token": "wrong"}, context="lab")
    with pytest.raises(ApiError) as raised:
        await run_source(config)
    assert raised.value.status == 401
    assert f"{api.url} does not accept kubeconfig {config}, context 'lab'" in str(raised.value)
    tried = [asked for asked in api.asked if asked.resource == "services"]
    assert len(tried) <= 2


async def test_an_exec_plugin_gives_a_token_and_is_run_again_when_that_is_refused(
    api: FakeApiServer, tmp_path: Path
) -> None:
    answer = tmp_path / "answer.json"
    write_exec_answer(answer, token="first")
    user = {"exec": exec_section(f"print(open({str(answer)!r}).read())")}
    config = write_kubeconfig(tmp_path / "config", api.url, user=user)
    async with running_source(config) as source:
        await source.until_listed("services")
        write_exec_answer(answer, token="second")
        api.token = "second"
        api.break_watches()
        api.create("services", service("new"))
        await source.until(lambda: source.names("services") == {"web", "new"})


async def test_an_exec_token_is_renewed_before_its_end(api: FakeApiServer, tmp_path: Path) -> None:
    end = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)
    answer = tmp_path / "answer.json"
    write_exec_answer(answer, token="first", expirationTimestamp="2040-01-02T03:04:05Z")
    user = {"exec": exec_section(f"print(open({str(answer)!r}).read())")}
    config = write_kubeconfig(tmp_path / "config", api.url, user=user)
    loaded = await load_credentials(CredentialSettings(kubeconfig=str(config)))
    assert loaded.stale_at == end - timedelta(seconds=30)


async def test_an_exec_plugin_that_fails_is_named(api: FakeApiServer, tmp_path: Path) -> None:
    user = {"exec": exec_section("raise SystemExit('no login')")}
    config = write_kubeconfig(tmp_path / "config", api.url, user=user)
    with pytest.raises(
        ConfigError, match=r"context 'test': the exec plugin .* gave no credentials"
    ):
        await run_source(config)


def exec_section(program: str) -> dict[str, Any]:
    return {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", program],
        "interactiveMode": "Never",
    }


def write_exec_answer(path: Path, **status: str) -> None:
    version = "client.authentication.k8s.io/v1"
    answer = {"apiVersion": version, "kind": "ExecCredential", "status": status}
    path.write_text(json.dumps(answer))


# TLS.


async def test_a_client_certificate(tmp_path: Path) -> None:
    tls = Tls(tmp_path, "server")
    async with FakeApiServer(tls=tls.server(clients=tls)) as api:
        api.create("services", service("web"))
        cluster = {"certificate-authority": str(tls.ca_file)}
        user = tls.client_files(tmp_path, "client")
        config = write_kubeconfig(tmp_path / "config", api.url, cluster=cluster, user=user)
        await assert_it_watches(api, config)


async def test_a_changed_server_certificate_is_trusted_once_the_ca_file_has_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pyproxy")
    old, new = Tls(tmp_path, "old"), Tls(tmp_path, "new")
    trusted = tmp_path / "trusted.crt"
    trusted.write_bytes(old.ca_file.read_bytes())
    async with FakeApiServer(tls=old.server()) as api:
        api.create("services", service("web"))
        cluster = {"certificate-authority": str(trusted)}
        config = write_kubeconfig(tmp_path / "config", api.url, cluster=cluster)
        async with running_source(config) as source:
            # All are connected then: a handshake that is cut leaves its socket to the collector.
            await source.until_listed("services", "endpointslices", "servicecidrs")
            await api.restart(tls=new.server())
            await source.until_restarted("services", "tls", 3)
            trusted.write_bytes(new.ca_file.read_bytes())
            api.create("services", service("new"))
            await source.until(lambda: source.names("services") == {"web", "new"})
            assert source.lists("services") == 1


async def test_a_rotated_client_certificate_is_loaded_when_the_old_one_is_refused(
    tmp_path: Path,
) -> None:
    server, old, new = (Tls(tmp_path, name) for name in ("server", "old", "new"))
    async with FakeApiServer(tls=server.server(clients=old)) as api:
        api.create("services", service("web"))
        cluster = {"certificate-authority": str(server.ca_file)}
        user = old.client_files(tmp_path, "client")
        config = write_kubeconfig(tmp_path / "config", api.url, cluster=cluster, user=user)
        async with running_source(config) as source:
            # All are connected then: a handshake that is cut leaves its socket to the collector.
            await source.until_listed("services", "endpointslices", "servicecidrs")
            await api.restart(tls=server.server(clients=new))
            new.client_files(tmp_path, "client")
            api.create("services", service("new"))
            await source.until(lambda: source.names("services") == {"web", "new"})


async def test_tls_server_name_is_the_name_that_the_certificate_must_have(tmp_path: Path) -> None:
    tls = Tls(tmp_path, "server")
    async with FakeApiServer(tls=tls.server("api.example.com")) as api:
        api.create("services", service("web"))
        cluster = {
            "certificate-authority": str(tls.ca_file),
            "tls-server-name": "api.example.com",
        }
        config = write_kubeconfig(tmp_path / "config", api.url, cluster=cluster)
        await assert_it_watches(api, config)


async def test_insecure_skip_tls_verify_takes_any_certificate(tmp_path: Path) -> None:
    tls = Tls(tmp_path, "server")
    async with FakeApiServer(tls=tls.server("other.example.com")) as api:
        api.create("services", service("web"))
        cluster = {"insecure-skip-tls-verify": True}
        await assert_it_watches(
            api, write_kubeconfig(tmp_path / "config", api.url, cluster=cluster)
        )


async def test_a_kubeconfig_leaves_no_key_in_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import base64
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    tls = Tls(tmp_path, "server")
    data = base64.b64encode(tls.ca_file.read_bytes()).decode()
    cluster = {"certificate-authority-data": data}
    config = write_kubeconfig(tmp_path / "config", "https://127.0.0.1:1", cluster=cluster)
    for _ in range(2):
        loaded = await load_credentials(CredentialSettings(kubeconfig=str(config)))
        assert loaded.tls is not None
        assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("is_tls", [False, True])
async def test_requests_go_through_the_proxy_url(tmp_path: Path, *, is_tls: bool) -> None:
    tls = Tls(tmp_path, "server")
    context = tls.server("api.example.com") if is_tls else None
    async with FakeApiServer(tls=context) as api, ForwardProxy() as proxy:
        api.create("services", service("web"))
        cluster = {"proxy-url": proxy.url}
        if is_tls:
            cluster |= {
                "certificate-authority": str(tls.ca_file),
                "tls-server-name": "api.example.com",
            }
        config = write_kubeconfig(tmp_path / "config", api.url, cluster=cluster)
        await assert_it_watches(api, config)
        assert proxy.connections > 0


class ForwardProxy:
    """An HTTP proxy of the smallest kind: CONNECT, and plain requests by their absolute URL."""

    def __init__(self) -> None:
        self.connections = 0

    async def __aenter__(self) -> "ForwardProxy":
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._tasks.__aexit__(None, None, None)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b" ", 2)
        authority = target if method == b"CONNECT" else target.split(b"/")[2]
        host, port = authority.decode().rsplit(":", 1)
        upstream, upstream_writer = await asyncio.open_connection(host, int(port))
        if method == b"CONNECT":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            upstream_writer.write(head)
        self._tasks.create_task(_pump(upstream, writer))
        await _pump(reader, upstream_writer)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


# Where they come from.


async def test_an_unknown_context_names_those_that_exist(tmp_path: Path) -> None:
    config = write_kubeconfig(tmp_path / "config", "http://127.0.0.1:1", context="lab")
    with pytest.raises(ConfigError, match=r"config has no context 'prod'; it has: lab"):
        await run_source(config, with_settings(context="prod"))


async def test_a_kubeconfig_without_a_current_context_names_those_that_exist(
    tmp_path: Path,
) -> None:
    config = write_kubeconfig(tmp_path / "config", "http://127.0.0.1:1", context="lab")
    content = yaml.safe_load(config.read_text())
    del content["current-context"]
    config.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="has no current context; it has: lab"):
        await run_source(config)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "is no YAML"),
        ("just text", "cannot be used"),
        ("", "cannot be used"),
        ("contexts: 1", "cannot be used"),
        ("contexts: [{}]", "cannot be used"),
        ("contexts: [{name: a, context: {cluster: b}}]\ncurrent-context: a", "cannot be used"),
        (
            "contexts: [{name: a, context: {cluster: b}}]\ncurrent-context: a\n"
            "clusters: [{name: b, cluster: {server: 'ftp://x'}}]",
            "no http:// or https:// URL",
        ),
        (
            "contexts: [{name: a, context: {cluster: b}}]\ncurrent-context: a\n"
            "clusters: [{name: b, cluster: {server: 'http://x', proxy-url: 'socks5://y'}}]",
            "proxy-url 'socks5://y' is not supported",
        ),
        (
            "contexts: [{name: a, context: {cluster: b}}]\ncurrent-context: a\n"
            "clusters: [{name: b, cluster: {server: 'https://x', certificate-authority: no.crt}}]",
            "cannot be used: ConfigException: File does not exists",
        ),
    ],
)
async def test_a_broken_kubeconfig_names_the_file_and_the_fault(
    tmp_path: Path, text: str, fault: str
) -> None:
    config = tmp_path / "broken"
    config.write_text(text)
    with pytest.raises(ConfigError) as raised:
        await run_source(config)
    assert fault in str(raised.value)
    assert str(config) in str(raised.value)
    assert "\n" not in str(raised.value)


async def test_a_kubeconfig_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kubeconfig .*/nowhere does not exist"):
        await run_source(tmp_path / "nowhere")


async def test_a_kubeconfig_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be used: IsADirectoryError"):
        await run_source(tmp_path)


async def test_a_context_without_a_user_is_anonymous(tmp_path: Path) -> None:
    tls = Tls(tmp_path, "server")
    config = write_kubeconfig(
        tmp_path / "config",
        "https://127.0.0.1:1",
        cluster={"certificate-authority": str(tls.ca_file)},
    )
    content = yaml.safe_load(config.read_text())
    del content["contexts"][0]["context"]["user"]
    config.write_text(yaml.safe_dump(content))
    loaded = await load_credentials(CredentialSettings(kubeconfig=str(config)))
    assert loaded.authorization == ""
    assert loaded.tls is not None


async def test_the_environment_names_kubeconfigs_that_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_kubeconfig(tmp_path / "first", "http://127.0.0.1:1", context="one")
    second = write_kubeconfig(tmp_path / "second", "http://127.0.0.1:2", context="two")
    monkeypatch.setenv("KUBECONFIG", f"{first}{os.pathsep}{second}")
    loaded = await load_credentials(CredentialSettings(context="one"))
    assert loaded.url == "http://127.0.0.1:1"


async def test_the_default_kubeconfig_is_in_the_home_directory(tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    write_kubeconfig(tmp_path / ".kube" / "config", "http://127.0.0.1:3")
    assert (await load_credentials(CredentialSettings())).url == "http://127.0.0.1:3"


async def test_without_any_credentials_the_error_says_where_was_looked() -> None:
    with pytest.raises(ConfigError, match=r"no kubeconfig is given, ~/\.kube/config does not"):
        await load_credentials(CredentialSettings())


async def test_a_master_url_needs_no_credentials() -> None:
    loaded = await load_credentials(CredentialSettings(master="http://127.0.0.1:8001/"))
    assert (loaded.url, loaded.tls) == ("http://127.0.0.1:8001", None)


async def test_a_master_url_replaces_that_of_the_kubeconfig(
    api: FakeApiServer, tmp_path: Path
) -> None:
    config = write_kubeconfig(tmp_path / "config", "http://127.0.0.1:1", user={"token": "first"})
    await assert_it_watches(api, config, with_settings(master=api.url))


@pytest.fixture
def service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tls = Tls(tmp_path, "cluster")
    (tmp_path / "ca.crt").write_bytes(tls.ca_file.read_bytes())
    (tmp_path / "token").write_text("first\n")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return tmp_path


async def test_a_pod_uses_its_service_account_at_the_address_of_its_environment(
    service_account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = CredentialSettings(service_account_dir=str(service_account))
    loaded = await load_credentials(settings)
    assert (loaded.url, loaded.authorization) == ("https://10.96.0.1:443", "bearer first")
    assert loaded.stale_at is not None
    # A renewal must not set it back to the Service's address, which we may have to serve ourselves.
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    (service_account / "token").write_text("second")
    loaded = await load_credentials(settings)
    assert (loaded.url, loaded.authorization) == ("https://[fd00::1]:6443", "bearer second")


async def test_a_master_url_replaces_the_address_of_the_pods_environment(
    service_account: Path,
) -> None:
    loaded = await load_credentials(
        CredentialSettings(
            service_account_dir=str(service_account), master="https://192.168.0.2:6443"
        )
    )
    assert (loaded.url, loaded.authorization) == ("https://192.168.0.2:6443", "bearer first")


async def test_a_pod_without_a_token_says_so(service_account: Path) -> None:
    (service_account / "token").unlink()
    with pytest.raises(ConfigError, match=r"service account of this pod \(.*\) cannot be used"):
        await load_credentials(CredentialSettings(service_account_dir=str(service_account)))


async def test_an_address_where_nobody_is_names_the_value_to_set(
    service_account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    settings = CredentialSettings(service_account_dir=str(service_account))
    async with ApiClient(settings, ApiServers(), connect_timeout_s=5) as client:
        with pytest.raises(ApiError) as fault:
            await client.post("/api", b"{}")
    told = str(fault.value)
    assert told.startswith("https://127.0.0.1:1: Cannot connect to host 127.0.0.1:1 [Connect call")
    assert "set them in deploy/base/apiserver.env (ConfigMap pyproxy-apiserver)" in told
    # A URL that was given by hand is not the pod's environment.
    settings = msgspec.structs.replace(settings, master="https://127.0.0.1:1")
    async with ApiClient(settings, ApiServers(), connect_timeout_s=5) as client:
        with pytest.raises(ApiError) as fault:
            await client.post("/api", b"{}")
    assert "apiserver.env" not in str(fault.value)
