"""Registry of connectors, by `connector.kind`."""

from duplexmamba.models.connector import CONNECTORS

__all__ = ["CONNECTORS"]
