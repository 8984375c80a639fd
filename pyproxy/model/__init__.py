"""Immutable values in the words of the Kubernetes API. They decide nothing and know no source."""
