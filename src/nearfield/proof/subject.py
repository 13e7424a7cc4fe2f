"""What receipts are about, as plain facts: no model, no tensors, so that a server can hold them."""

from dataclasses import dataclass
from typing import Any

from nearfield.proof.approximate import PREFIX


@dataclass(frozen=True)
class Subject:
    """What the receipts of one engine have in common: the model's root, the numeric profile, the digest of
    tokenizer, template and ends (model_root.py), and the tokens that its context holds."""

    model_root: bytes
    profile: str
    tokenizer: bytes
    max_context: int

    @property
    def approximate(self) -> bool:
        """Whether the profile promises no bits."""
        return self.profile.startswith(PREFIX)


@dataclass(frozen=True)
class SelfTest:
    """The golden vector of a profile, and what this machine made of it; `expected` is None where none is known."""

    profile: str
    isa: str
    expected: str | None
    found: str

    @property
    def passed(self) -> bool:
        """Whether the bits are those of the profile."""
        return self.found == self.expected

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        status = "no golden vector" if self.expected is None else "pass" if self.passed else "fail"
        return {"profile": self.profile, "isa": self.isa, "model": "pocket", "logits_sha256": self.found,
                "expected": self.expected, "status": status}
