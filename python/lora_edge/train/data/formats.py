"""What a line says: the formats that mlx-lm, Hugging Face's TRL and GLUE use, told apart by their keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .problems import kind_of, shown

ROLES = ("system", "developer", "user", "assistant", "tool")
TEXT_KEYS = ("text", "sentence")
PAIR_KEYS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
)
FORMATS = (
    '{"text"}, {"prompt", "completion"}, {"messages"}, {"prompt", "chosen", "rejected"}, {"text", "label"} or '
    '{"sentence1", "sentence2", "label"}'
)
MAX_LABEL = (1 << 31) - 1


@dataclass(frozen=True)
class Text:
    """A text to learn as a whole."""

    text: str


@dataclass(frozen=True)
class Completion:
    """A prompt and what is to follow it."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Chat:
    """A conversation; the assistant's turns from message `start` on are to be learned."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    start: int = 0


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt: the better and the worse."""

    chosen: Completion | Chat
    rejected: Completion | Chat


@dataclass(frozen=True)
class Labelled:
    """A text, or a pair of texts, and its class. number: the label was written as a whole number."""

    texts: tuple[str, ...]
    label: str
    number: bool


Record = Text | Completion | Chat | Preference | Labelled


def format_of(value: Mapping[str, Any]) -> str:
    """ "text", "completion", "chat", "preference", "label" or "pair". ValueError: the keys are of none, or of two."""
    found = []
    if "label" in value and _pair(value):
        found.append("pair")
    elif "label" in value and _text_key(value):
        found.append("label")
    elif "text" in value:
        found.append("text")
    if "prompt" in value and "completion" in value:
        found.append("completion")
    if "chosen" in value and "rejected" in value:
        found.append("preference")
    if "messages" in value:
        found.append("chat")
    keys = ", ".join(shown(key) for key in list(value)[:8]) or "none"
    if not found:
        raise ValueError(f"has the keys {keys}; known are {FORMATS}")
    if len(found) > 1:
        raise ValueError(f"has the keys {keys}, which are two formats at once: keep those of one")
    return found[0]


def parse(value: Mapping[str, Any], kind: str) -> Record:
    """The record of a line of format `kind`. ValueError names the key that is not what the format asks for."""
    if kind == "text":
        return Text(_text(value, "text"))
    if kind == "chat":
        return Chat(_messages(value, "messages"), _tools(value))
    if kind == "completion":
        return _answer(value, "completion")
    if kind == "preference":
        return Preference(_preferred(value, "chosen"), _preferred(value, "rejected"))
    keys = _pair(value) if kind == "pair" else _text_key(value)
    label, number = _label(value["label"])
    return Labelled(tuple(_text(value, key) for key in keys), label, number)


def _pair(value: Mapping[str, Any]) -> tuple[str, ...]:
    return next((pair for pair in PAIR_KEYS if pair[0] in value and pair[1] in value), ())


def _text_key(value: Mapping[str, Any]) -> tuple[str, ...]:
    return next(((key,) for key in TEXT_KEYS if key in value), ())


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value[key]
    if not isinstance(text, str):
        raise ValueError(f'"{key}" is {kind_of(text)}, not a text')
    if not text.strip():
        raise ValueError(f'"{key}" is empty')
    return text


def _answer(value: Mapping[str, Any], key: str) -> Completion | Chat:
    """A prompt and an answer: both texts, or both lists of messages."""
    if isinstance(value["prompt"], list) != isinstance(value[key], list):
        raise ValueError(f'"prompt" and "{key}" must both be texts, or both lists of messages')
    if not isinstance(value["prompt"], list):
        return Completion(_text(value, "prompt"), _text(value, key))
    prompt = _messages(value, "prompt", answered=False)
    return Chat(prompt + _messages(value, key), _tools(value), len(prompt))


def _preferred(value: Mapping[str, Any], key: str) -> Completion | Chat:
    """An answer to the prompt, or a whole conversation whose last turn is the answer, the prompt in it."""
    if isinstance(value[key], list) and not isinstance(value.get("prompt"), list):
        messages = _messages(value, key)
        if messages[-1]["role"] != "assistant":
            raise ValueError(f'"{key}" does not end with a turn of the assistant')
        return Chat(messages, _tools(value), len(messages) - 1)
    if "prompt" not in value:
        raise ValueError(f'"{key}" is {kind_of(value[key])} and there is no "prompt" that it answers')
    return _answer(value, key)


def _messages(value: Mapping[str, Any], key: str, answered: bool = True) -> list[dict[str, Any]]:
    messages = value[key]
    if not isinstance(messages, list) or not messages:
        what = "empty" if messages == [] else kind_of(messages)
        raise ValueError(f'"{key}" is {what}, not a list of messages such as {{"role": "user", "content": "Hi"}}')
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ValueError(f'"{key}": message {i} is {kind_of(message)}, not an object with a role and a content')
        if message.get("role") not in ROLES:
            role = f"the role {shown(message['role'])}" if "role" in message else "no role"
            raise ValueError(f'"{key}": message {i} has {role}; known are {", ".join(ROLES)}')
        content = message.get("content")
        called = message["role"] == "assistant" and message.get("tool_calls")
        if not (called or (isinstance(content, list) and content)):
            if not isinstance(content, str):
                raise ValueError(f'"{key}": the content of message {i} is {kind_of(content)}, not a text')
            if not content.strip():
                raise ValueError(f'"{key}": the content of message {i} ({message["role"]}) is empty')
    if answered and not any(message["role"] == "assistant" for message in messages):
        raise ValueError(f'"{key}" has no turn of the assistant: there is nothing to learn')
    return messages


def _tools(value: Mapping[str, Any]) -> list[Any] | None:
    tools = value.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise ValueError(f'"tools" is {kind_of(tools)}, not a list')
    return tools


def _label(label: Any) -> tuple[str, bool]:
    if isinstance(label, bool) or not isinstance(label, (str, int)):
        raise ValueError(f'"label" is {kind_of(label)}{_shown_number(label)}, not a text or a whole number')
    if isinstance(label, int):
        if not -MAX_LABEL <= label <= MAX_LABEL:
            raise ValueError(f'"label" {shown(label)} is too large a number')
        return str(label), True
    if not label.strip():
        raise ValueError('"label" is empty')
    return label.strip(), False


def _shown_number(label: Any) -> str:
    return f" ({label})" if isinstance(label, float) else ""
