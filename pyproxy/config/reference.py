"""The reference of both documents' fields, written from the code that reads them."""

from collections.abc import Iterator
from typing import Any

from pyproxy.config import kubeproxy, own
from pyproxy.config.configuration import Configuration
from pyproxy.config.fields import Section, fields_of

_HEAD = """\
# Configuration

`pyproxy run --config FILE` takes a YAML file with a KubeProxyConfiguration, as kube-proxy has it
in its ConfigMap, or a PyproxyConfiguration, or both as two documents.

    apiVersion: kubeproxy.config.k8s.io/v1alpha1
    kind: KubeProxyConfiguration
    clusterCIDR: 10.244.0.0/16
    nodePortAddresses: [primary]
    ---
    apiVersion: pyproxy.io/v1alpha1
    kind: PyproxyConfiguration
    drainTimeout: 1m30s

- `pyproxy config validate FILE` tells every fault of a file, and its fields without effect.
- `pyproxy config show [--config FILE]` prints what holds, defaults included.
- `pyproxy config reference` prints this page.

Durations are as in Go: `250ms`, `1m30s`, `2h`. A field that nobody knows is told in the log and has
no effect; a value that cannot be used stops the start.
"""
_NO_EFFECT = """\
## Fields of KubeProxyConfiguration without effect

They are read, so that kube-proxy's file can be taken as it is; each that is set is logged.

| field | why |
| --- | --- |
"""


def reference() -> str:
    """Return the reference in Markdown."""
    kube_proxy, pyproxy = Configuration().documents()
    tables = (
        _table(kubeproxy.KubeProxyConfiguration, kubeproxy.API_VERSION, kube_proxy),
        _table(own.PyproxyConfiguration, own.API_VERSION, pyproxy),
    )
    ignored = "".join(f"| {name} | {known.why} |\n" for name, known in kubeproxy.NO_EFFECT.items())
    return "\n".join((_HEAD, *tables, _NO_EFFECT + ignored))


def _table(section: type[Section], version: str, defaults: dict[str, Any]) -> str:
    head = f"## {section.__name__} ({version})\n\n"
    head += "| field | value | default | meaning |\n| --- | --- | --- | --- |\n"
    return head + "".join(_rows(section, defaults, ""))


def _rows(section: type[Section], defaults: dict[str, Any], path: str) -> Iterator[str]:
    for field in fields_of(section):
        name, default = path + field.wire_name, defaults.get(field.wire_name)
        if field.section is not None:
            yield from _rows(field.section, defaults[field.wire_name], f"{name}.")
        else:
            assert field.kind is not None
            yield f"| {name} | {field.kind.name} | {_default(default)} | {field.doc.text} |\n"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{value}`" if value not in (None, "", []) else ""
