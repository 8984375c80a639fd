"""What a source can say: an object is there, an object is gone, this is all there is.

A source sends `Listed` first, once for each resource, and again whenever it had to list anew; what
is not in it is gone. Between lists it sends `Applied` and `Deleted`. The store compares values, so
saying the same thing twice changes nothing.
"""

from typing import Literal

import msgspec

from pyproxy.model.addresses import Cidr
from pyproxy.model.endpoint import EndpointSlice
from pyproxy.model.node import Node
from pyproxy.model.service import Service

Resource = Literal["services", "endpointslices", "nodes", "servicecidrs"]
RESOURCES: tuple[Resource, ...] = ("services", "endpointslices", "nodes", "servicecidrs")


class ServiceCidr(msgspec.Struct, frozen=True):
    """A ServiceCIDR object: the ranges that ClusterIPs are taken from."""

    name: str
    cidrs: tuple[Cidr, ...]


Object = Service | EndpointSlice | Node | ServiceCidr

# (namespace, name); the namespace of a cluster-scoped object is "".
ObjectKey = tuple[str, str]


def key_of(value: Object) -> ObjectKey:
    """The key of an object among those of its resource."""
    if isinstance(value, Service | EndpointSlice):
        return (value.namespace, value.name)
    return ("", value.name)


class Applied(msgspec.Struct, frozen=True):
    """An object that is new or may have changed."""

    resource: Resource
    value: Object


class Deleted(msgspec.Struct, frozen=True):
    """An object that is gone."""

    resource: Resource
    key: ObjectKey


class Listed(msgspec.Struct, frozen=True):
    """Every object of a resource that there is."""

    resource: Resource
    values: tuple[Object, ...]


Event = Applied | Deleted | Listed
