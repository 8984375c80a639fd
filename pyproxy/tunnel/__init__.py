"""Connections to pods through the API server, by port-forwarding."""
