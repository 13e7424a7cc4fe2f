"""The bodies of the API: strict types, a bound on every list and string that costs work.

Types and sizes are checked here; ranges of sampling values by core's SamplingParams, so that HTTP and
Python users meet the same limits. Unions are read by small functions instead of pydantic's, which would
report one error for each member of the union and each item of a hostile list.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from nearfield.core.errors import nearest
from nearfield.core.request import MAX_TOP_LOGPROBS
from nearfield.server.errors import ApiError, bad_request
from nearfield.server.fields import known_fields

MAX_MESSAGES = 2048
MAX_PARTS = 1024
MAX_TOOLS = 256
MAX_PROMPTS = 64
MAX_LOGIT_BIAS = 1024
MAX_STOP_IDS = 1024
MAX_VARIABLES = 32
MAX_DEPTH = 64
MAX_TOKENS = 1 << 20
"""Ids in one list: above any context that is served, below what would hold the process up."""

RESERVED_VARIABLES = frozenset({
    "messages", "tools", "documents", "chat_template", "tokenize", "add_generation_prompt",
    "continue_final_message", "return_dict", "bos_token", "eos_token", "pad_token", "unk_token",
    "raise_exception", "strftime_now", "range", "namespace", "dict", "lipsum", "cycler", "joiner",
    "self", "loop",
})
"""Names in a chat template that belong to the server or to the template language."""


def _refuse(message: str, field: str = "") -> PydanticCustomError:
    """An error of the value at hand, or, from a check across fields, of `field`."""
    # The message is handed over as a value: braces in it would be read as placeholders.
    return PydanticCustomError("refused", "{message}", {"message": message, "field": field})


def nested_over(value: Any, limit: int) -> bool:
    """Whether lists and objects stand more than `limit` deep in `value`; without recursion."""
    level = [value]
    for _ in range(limit):
        level = [item for outer in level if isinstance(outer, dict | list)
                 for item in (outer.values() if isinstance(outer, dict) else outer)]
        if not level:
            return False
    return True


def _free_form(value: Any) -> Any:
    if not isinstance(value, dict):
        raise _refuse("must be an object")
    if nested_over(value, MAX_DEPTH):
        raise _refuse(f"is nested more than {MAX_DEPTH} deep")
    return value


def _content(value: Any) -> str | None:
    """A message's text: a string, or a list of text parts, which are joined by newlines."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list) or len(value) > MAX_PARTS:
        raise _refuse(f"must be a string or a list of at most {MAX_PARTS} text parts")
    return "\n".join(map(_part, value))


def _part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise _refuse(f"parts of type {str(kind)[:64]!r} are not supported, only 'text'")
    if set(part) != {"type", "text"} or not isinstance(part["text"], str):
        raise _refuse("a text part holds exactly 'type' and 'text', a string")
    text: str = part["text"]
    return text


def _stop(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MAX_TOKENS and all(type(i) is int for i in value)


def _prompts(value: Any) -> list[str] | list[list[int]]:
    """One or many prompts, each text or token ids, as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise _refuse("must be a string, a list of strings, a list of token ids, or a list of such lists")
    if _is_ids(value):
        return [value]
    if len(value) > MAX_PROMPTS:
        raise _refuse(f"holds {len(value)} prompts; at most {MAX_PROMPTS} are taken")
    if not all(isinstance(p, str) for p in value) and not all(map(_is_ids, value)):
        raise _refuse(f"every prompt must be a string, or every one a list of 1 to {MAX_TOKENS} token ids")
    return value


def _logit_bias(value: Any) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > MAX_LOGIT_BIAS:
        raise _refuse(f"must be an object of at most {MAX_LOGIT_BIAS} token ids")
    if not all(key.isascii() and key.isdecimal() and len(key) <= 10 for key in value):
        raise _refuse("keys must be token ids in decimal digits")
    if not all(type(bias) in (int, float) for bias in value.values()):
        raise _refuse("values must be numbers")
    return {int(key): float(bias) for key, bias in value.items()}


def _variables(value: Any) -> Any:
    """Plain values for the chat template. Never a template, messages or what the server itself sets."""
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > MAX_VARIABLES:
        raise _refuse(f"must be an object of at most {MAX_VARIABLES} variables")
    for name, item in value.items():
        short = name[:64]
        if not name.isidentifier() or name.startswith("_") or len(name) > 64 or name in RESERVED_VARIABLES:
            raise _refuse(f"{short!r} can not be set")
        if not isinstance(item, str | bool | int | float) or (isinstance(item, str) and len(item) > 1024):
            raise _refuse(f"{short!r} must be a number, a boolean or a string of at most 1024 characters")
    return value


class Strict(BaseModel):
    """No conversion between types, no infinite numbers, no unknown fields (one error for all of them)."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_unknown(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name in value:
                if name not in cls.model_fields:
                    short = name[:64]
                    raise _refuse(f"unknown field{nearest(short, cls.model_fields)}", short)
        return value


FreeForm = Annotated[dict[str, Any], BeforeValidator(_free_form)]


class FunctionCall(Strict):
    """A call that the assistant made: `arguments` is JSON text."""

    name: str = Field(max_length=64)
    arguments: str


class ToolCall(Strict):
    """A call in an earlier turn."""

    id: str = Field(max_length=256)
    type: Literal["function"] = "function"
    index: int | None = None
    function: FunctionCall


ToolCalls = Annotated[list[ToolCall], Field(max_length=MAX_TOOLS, fail_fast=True)]


class Message(Strict):
    """One turn of a chat. The last four fields are echoes of a reply and must be empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | None, PlainValidator(_content)] = None
    name: str | None = Field(None, max_length=256)
    reasoning_content: str | None = None
    tool_calls: ToolCalls | None = None
    tool_call_id: str | None = Field(None, max_length=256)
    refusal: None = None
    annotations: list[None] | None = Field(None, max_length=0)
    audio: None = None
    function_call: None = None

    @model_validator(mode="after")
    def _has_content(self) -> Self:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise _refuse(f"a message of role {self.role!r} must have content", "content")
        return self


class Function(Strict):
    """A function that the model may call. `strict` is taken and not enforced."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    description: str | None = None
    parameters: FreeForm | None = None
    strict: bool | None = None


class Tool(Strict):
    """An entry of `tools`."""

    type: Literal["function"]
    function: Function


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)]
Stops = Annotated[list[str], Field(max_length=16, fail_fast=True)]
Ids = Annotated[list[int], Field(max_length=MAX_TOKENS, fail_fast=True)]
StopIds = Annotated[list[int], Field(max_length=MAX_STOP_IDS, fail_fast=True)]
Variables = Annotated[dict[str, Any] | None, PlainValidator(_variables)]


class StreamOptions(Strict):
    """What a stream carries beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None
    continuous_usage_stats: Literal[False] | None = None


class Generate(Strict):
    """What chat and completions have in common. None: the model's default, else OpenAI's."""

    model: str = Field(max_length=512)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[int, float] | None, PlainValidator(_logit_bias)] = None
    seed: int | None = None
    n: int | None = None
    stop: Annotated[Stops | None, BeforeValidator(_stop)] = None
    stop_token_ids: StopIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise _refuse("needs stream: true", "stream_options")
        return self


class ChatBody(Generate):
    """POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    tools: Tools | None = None
    tool_choice: Any = None
    chat_template_kwargs: Variables = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise _refuse("needs logprobs: true", "top_logprobs")
        if self.tool_choice not in (None, "auto", "none"):
            raise _refuse("can be 'auto' or 'none'; a forced call is not supported", "tool_choice")
        return self


class CompletionBody(Generate):
    """POST /v1/completions."""

    prompt: Annotated[list[str] | list[list[int]], PlainValidator(_prompts)]
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    add_special_tokens: bool | None = None


class TokenizeBody(Strict):
    """POST /tokenize: a prompt, or messages as chat would render them."""

    model: str | None = Field(None, max_length=512)
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    tools: Tools | None = None
    chat_template_kwargs: Variables = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise _refuse("give either prompt or messages", "prompt")
        return self


class DetokenizeBody(Strict):
    """POST /detokenize."""

    model: str | None = Field(None, max_length=512)
    tokens: Ids


Body = TypeVar("Body", bound=Strict)


def parse(schema: type[Body], body: Mapping[str, Any]) -> Body:
    """Read `body` as `schema`. Raises ApiError (400) that names the first wrong field."""
    fields = known_fields(body, schema.model_fields)
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        raise _first(error) from None


def _first(error: ValidationError) -> ApiError:
    details = error.errors(include_url=False, include_input=False)[0]
    field = details.get("ctx", {}).get("field", "")
    place = ".".join(filter(None, [*(str(step)[:64] for step in details["loc"]), field]))
    return bad_request(f"{place}: {details['msg']}", place)
