"""One process at a time is a node: two with the same keys would drop each other's reservations in the ledger, and
each would not know the signatures that the other has given.

The lock is the kernel's, on a file in the node's home: it ends with the process, however that ends. Homes that were
copied to another machine are not seen; give every node keys of its own.
"""

import fcntl
import os
from pathlib import Path

from nearfield.node.errors import IdentityError

FILE = "node.lock"


class Hold:
    """Holds `home` from when it is made until `close`. Raises IdentityError when another process does."""

    def __init__(self, home: Path) -> None:
        self._file = os.open(home / FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise IdentityError(f"{home}: another process serves as this node; stop it, or give this one keys of its "
                                "own: NEARFIELD_NODE_HOME=FOLDER nearfield node init") from None

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._file)
