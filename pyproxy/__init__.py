"""pyproxy: a userspace Service proxy for Kubernetes."""

__version__ = "0.1.0"
