"""From a loaded model, a key and a folder to the notary that gives receipts."""

import logging
import time
from pathlib import Path

from nearfield.engine.build import Loaded
from nearfield.proof import selftest
from nearfield.proof.chain import ReceiptChain
from nearfield.proof.model_root import subject_of
from nearfield.proof.notary import Notary
from nearfield.proof.receipt import Signer

_log = logging.getLogger("nearfield")


def open_notary(loaded: Loaded, signer: Signer, home: Path, *, approximate: bool = False) -> Notary:
    """A notary for `loaded` under the node's key, whose chain lies in `home`.

    Hashes all weights and computes the profile's golden vector. Raises ConfigError where the arithmetic has no
    profile (unless receipts may be `approximate` there), or other bits than its profile's, or another process holds
    the chain.
    """
    begin = time.monotonic()
    subject = subject_of(loaded, approximate=approximate)
    _log.info("model root %s, profile %s, hashed in %.2f s", subject.model_root.hex(), subject.profile,
              time.monotonic() - begin)
    return Notary(subject, signer, ReceiptChain(home / "receipts.chain"), selftest.run(loaded))
