"""What a user asks of quantisation, checked before anything is computed."""

from dataclasses import dataclass

from nearfield.compress.fit import Fit
from nearfield.compress.plan import Profile, Target
from nearfield.compress.quantize.choose import Method
from nearfield.core.errors import ConfigError
from nearfield.formats.int4 import Int4

FORMATS = ("w8", "w4")


@dataclass(frozen=True)
class QuantizeOptions:
    """Either `format`, with `group` columns to a scale in w4, or `fit`, bytes that the files of weights may have.

    method: None is gptq with text, rtn without. device: where calibration computes.
    """

    format: str | None = None
    group: int | None = None
    fit: int | None = None
    method: Method | None = None
    profile: Profile = "vllm"
    device: str = "cpu"

    def chosen(self, with_text: bool) -> Method:
        """The method. Raises ConfigError for options that do not go together, or with text, or without."""
        method = self.method or ("gptq" if with_text else "rtn")
        if (self.format is None) == (self.fit is None):
            raise ConfigError("give --format w8 or w4, or a size with --fit: one of the two")
        if self.format == "w8" and self.group is not None:
            raise ConfigError("--group is of w4: a w8 folder has one scale a row, as other engines read it; leave it "
                              "out. Groups in int8 are for serving, on the dense folder: serve --weights w8")
        if self.fit is not None and self.group is not None:
            raise ConfigError("--group is of --format w4: --fit chooses groups itself; leave one of them out")
        if self.fit is not None and method == "rtn":
            raise ConfigError("--fit measures on text: give --calibration FILE, text like what the model will be used "
                              "for, and a method other than rtn")
        if method == "rtn" and self.device != "cpu":
            raise ConfigError("--device is of gptq, awq and auto: rtn computes on the CPU; leave it out")
        if method == "rtn" and with_text:
            raise ConfigError("--calibration is of gptq, awq and auto: rtn looks at no text; leave one of them out")
        if method != "rtn" and not with_text:
            raise ConfigError(f"--method {method} looks at text: give --calibration FILE, text like what the model "
                              "will be used for")
        return method

    def target(self) -> Target | Fit:
        """What to write."""
        if self.fit is not None:
            return Fit(self.fit, self.profile)
        return Target(self.format or "", self.group or Int4.GROUP, self.profile)
