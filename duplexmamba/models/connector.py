"""Names of `duplexmamba.models.connectors` at their earlier path."""

from duplexmamba.models.connectors import CONNECTORS
from duplexmamba.models.connectors.base import VariableRateSpeech as Compressed
from duplexmamba.models.connectors.ctc import BYTE_LABELS, CTCConnector

__all__ = ["BYTE_LABELS", "CONNECTORS", "CTCConnector", "Compressed"]
