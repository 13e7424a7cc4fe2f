"""Who a node is: its NEAR account, an ed25519 key and a secp256k1 key, and the two files that keep them.

Both are in near-cli's credentials form, `{"account_id", "public_key", "private_key"}`, with mode 0600 from their first
byte on: each is written under a temporary name, flushed, then linked to its own, which fails where there is one.
So a key is never half there, never readable by others, and never overwritten.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
from coincurve import PrivateKey
from Crypto.Hash import keccak
from nacl.signing import SigningKey

from nearfield.node.errors import IdentityError
from nearfield.node.keys import check_account, ed25519_secret, encode_key, secp256k1_secret
from nearfield.node.nep413 import payload_hash

Algorithm = Literal["ecdsa", "ed25519"]
FILES = ("ed25519.json", "secp256k1.json")
_LARGEST_FILE = 1 << 16  # bytes


@dataclass(frozen=True)
class Identity:
    """A node's account and keys. Its repr shows the account alone.

    Attributes:
        account_id: The NEAR account, or 64 hex digits (an implicit account: the ed25519 public key).
        ed25519: Signs as the account does, on the chain too.
        secp256k1: Signs as an Ethereum wallet does.
    """

    account_id: str
    ed25519: SigningKey = field(repr=False)
    secp256k1: PrivateKey = field(repr=False)

    @property
    def public_key(self) -> str:
        """The ed25519 public key as NEAR writes it, `ed25519:<base58>`."""
        return encode_key("ed25519", bytes(self.ed25519.verify_key))

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of an ed25519 signature of `data`."""
        return self.ed25519.sign(data).signature

    def nep413(self, message: str, nonce: bytes, recipient: str, callback_url: str | None = None) -> bytes:
        """The 64 bytes of a NEP-413 signature: a message for one recipient that can not be a transaction.

        Raises:
            NodeError: 400, the nonce has not 32 bytes.
        """
        return self.sign(payload_hash(message, nonce, recipient, callback_url))

    def signing_public_key(self, algo: Algorithm) -> bytes:
        """What an attestation report calls signing_public_key: 32 bytes, or for ecdsa 64 (x and y)."""
        if algo == "ed25519":
            return bytes(self.ed25519.verify_key)
        return self.secp256k1.public_key.format(compressed=False)[1:]

    def address_bytes(self, algo: Algorithm) -> bytes:
        """The address that signatures name: the ed25519 public key (32 bytes), or the Ethereum address (20)."""
        public = self.signing_public_key(algo)
        return public if algo == "ed25519" else ethereum_address(public)

    def signing_address(self, algo: Algorithm) -> str:
        """The same as text: 64 hex digits, or `0x` and 40 in lower case."""
        return ("0x" if algo == "ecdsa" else "") + self.address_bytes(algo).hex()


def ethereum_address(public: bytes) -> bytes:
    """The last 20 bytes of the Keccak-256 of a secp256k1 public key (64 bytes: x and y)."""
    return keccak.new(digest_bits=256, data=public).digest()[-20:]


def default_home() -> Path:
    """Where a node keeps its keys and its ledger: $NEARFIELD_NODE_HOME, or ~/.nearfield/node."""
    named = os.environ.get("NEARFIELD_NODE_HOME")
    return Path(named) if named else Path.home() / ".nearfield" / "node"


def create(home: Path, account: str | None = None) -> Identity:
    """New keys in `home`, for `account` or, without one, for the implicit account of the new key.

    Raises:
        IdentityError: not an account id; there are keys already, which stay as they are; the folder can not be written.
    """
    key = SigningKey.generate()
    name = bytes(key.verify_key).hex() if account is None else check_account(account)
    return _keep(home, Identity(name, key, PrivateKey()))


def import_credentials(home: Path, file: Path) -> Identity:
    """The account and the ed25519 key of near-cli's credentials `file`, kept in `home` with a new secp256k1 key.

    Raises:
        IdentityError: the file is not such credentials, or others can read it; or as `create` does.
    """
    if not file.exists():
        raise IdentityError(f"{file}: there is no such file to import; near-cli keeps its credentials in "
                            "~/.near-credentials/NETWORK/ACCOUNT.json")
    account, key = _read_ed25519(file)
    return _keep(home, Identity(account, key, PrivateKey()))


def load(home: Path) -> Identity:
    """The identity that `home` keeps.

    Raises:
        IdentityError: there is none, a file is damaged, or others can read it.
    """
    account, ed25519 = _read_ed25519(home / FILES[0])
    file = home / FILES[1]
    content = _read(file)
    with _naming(file):
        secp256k1 = secp256k1_secret(content.get("private_key"))
    if content.get("public_key") != _secp256k1_text(secp256k1) or content.get("account_id") != account:
        raise IdentityError(f"{file}: its public_key or its account_id belongs to another key; restore it from a copy")
    return Identity(account, ed25519, secp256k1)


def _secp256k1_text(key: PrivateKey) -> str:
    return encode_key("secp256k1", key.public_key.format(compressed=False)[1:])


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """The errors of a file's content, with the file's name."""
    try:
        yield
    except IdentityError as error:
        raise IdentityError(f"{file}: {error}") from None


def _read_ed25519(file: Path) -> tuple[str, SigningKey]:
    """The account and the key of credentials; their public key must be the private key's."""
    content = _read(file)
    with _naming(file):
        account = check_account(content.get("account_id"))
        key = ed25519_secret(content.get("private_key"))
    if content.get("public_key") != encode_key("ed25519", bytes(key.verify_key)):
        raise IdentityError(f"{file}: public_key is not the public key of private_key; export the credentials again")
    return account, key


def _read(file: Path) -> dict[str, Any]:
    """The JSON object in a file that its owner alone can read."""
    try:
        with file.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            data = stream.read(_LARGEST_FILE)
    except FileNotFoundError:
        raise IdentityError(f"{file}: there is no such file; `nearfield node init` makes a node's keys") from None
    except OSError as error:
        raise IdentityError(f"{file}: can not be read ({error.strerror})") from None
    if mode & 0o077:
        raise IdentityError(f"{file}: others can read this key (mode {mode:04o}); chmod 600 {file}")
    try:
        content = orjson.loads(data)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise IdentityError(f"{file}: not a credentials file: a JSON object with account_id, public_key, private_key")
    return content


def _keep(home: Path, identity: Identity) -> Identity:
    """Writes both files, or neither: not if one of them is there, nor if one can not be written."""
    files = [home / name for name in FILES]
    for file in files:
        if file.exists():
            raise IdentityError(f"{file}: exists, and keys are never overwritten; move it away, or use another home")
    secret = bytes(identity.ed25519) + bytes(identity.ed25519.verify_key)
    keys = (identity.public_key, encode_key("ed25519", secret)), \
        (_secp256k1_text(identity.secp256k1), encode_key("secp256k1", identity.secp256k1.secret))
    written: list[Path] = []
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file, (public, private) in zip(files, keys, strict=True):
            content = {"account_id": identity.account_id, "public_key": public, "private_key": private}
            _write_new(file, orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
            written.append(file)
        _sync(home)
    except OSError as error:
        for file in written:
            file.unlink()
        raise IdentityError(f"{home}: keys can not be written there ({error.strerror})") from None
    return identity


def _write_new(file: Path, data: bytes) -> None:
    """A file that only its owner can read, whole or not at all, which must not be there yet."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, file)  # unlike a rename, refuses to replace
    finally:
        temporary.unlink()


def _sync(folder: Path) -> None:
    """Puts the names of new files on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
