"""Where the status page listens, and by which names it may be asked for."""

import pytest

from pyproxy.cli import flags, parser
from pyproxy.cli.run import settings
from pyproxy.config import Configuration, HostPort, parse_config
from pyproxy.errors import ConfigError
from pyproxy.ops.ui import host_name

HEAD = "apiVersion: pyproxy.io/v1alpha1\nkind: PyproxyConfiguration\n"


def page(*arguments: str, text: str = "") -> tuple[HostPort | None, tuple[str, ...]]:
    read = parse_config(HEAD + text)[0] if text else Configuration()
    typed = parser().parse_args(["run", "--manifests", "x", "--steer", "none", *arguments])
    made = settings(typed, flags.apply(read, typed))
    return made.page, made.page_hosts


def test_it_is_on_loopback_unless_told_otherwise() -> None:
    assert page() == (HostPort("127.0.0.1", 10290), ())


@pytest.mark.parametrize(
    ("arguments", "text", "at"),
    [
        (["--ui-bind-address", ""], "", None),
        (["--ui-bind-address", "10.0.0.7"], "", HostPort("10.0.0.7", 10290)),
        (["--ui-bind-address", "[::1]:0"], "", HostPort("::1", 0)),
        ([], "uiBindAddress: 10.0.0.7:81", HostPort("10.0.0.7", 81)),
        ([], 'uiBindAddress: ""', None),
        ([], "uiBindAddress: null", HostPort("127.0.0.1", 10290)),
        (["--ui-bind-address", "127.0.0.2"], 'uiBindAddress: ""', HostPort("127.0.0.2", 10290)),
    ],
)
def test_flag_and_file_say_where(arguments: list[str], text: str, at: HostPort | None) -> None:
    assert page(*arguments, text=text)[0] == at


def test_a_file_names_hosts() -> None:
    assert page(text="uiHosts: [a.example, 'fd00::7', B]")[1] == ("a.example", "fd00::7", "B")


@pytest.mark.parametrize(
    "text",
    ["uiHosts: [a.example:80]", "uiHosts: ['*']", "uiHosts: [1]", "uiHosts: x", "uiHosts: ['']"],
)
def test_what_is_no_host_name_is_a_fault(text: str) -> None:
    with pytest.raises(ConfigError, match="uiHosts"):
        page(text=text)


@pytest.mark.parametrize("text", ["here", "127.0.0.1:0", "127.0.0.1:99999"])
def test_what_is_no_address_is_a_fault(text: str) -> None:
    with pytest.raises(ConfigError, match="uiBindAddress"):
        page(text=f"uiBindAddress: {text}")


@pytest.mark.parametrize("text", ["", "uiHosts: [a.example]", 'uiBindAddress: ""'])
def test_what_is_written_reads_as_the_same(text: str) -> None:
    import yaml

    read = parse_config(HEAD + text)[0]
    again = parse_config(yaml.safe_dump_all(read.documents()))[0]
    assert again.pyproxy.ui_bind_address == read.pyproxy.ui_bind_address
    assert again.pyproxy.ui_hosts == read.pyproxy.ui_hosts


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:10290", "localhost"),
        ("[::1]:10290", "::1"),
        ("[::1]", "::1"),
        ("[fd00::7", "fd00::7"),
        (" a.example ", "a.example"),
        ("a.example:b:c", "a.example"),
        ("", ""),
    ],
)
def test_the_name_of_a_host_header_is_without_its_port(header: str, name: str) -> None:
    assert host_name(header) == name
