"""What can be wrong with a receipt before anything is computed."""

from nearfield.core.errors import NearfieldError


class ReceiptError(NearfieldError):
    """Bytes or JSON that are no receipt, or can not be checked here; the message says what and where."""
