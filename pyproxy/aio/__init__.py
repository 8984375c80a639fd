"""Asyncio tools that know nothing of Kubernetes."""
