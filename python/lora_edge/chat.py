"""Chat messages to a prompt, by the chat template of the model file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def render_chat(
    template: str | None,
    messages: Sequence[Mapping[str, object]],
    *,
    add_generation_prompt: bool = True,
    bos_token: str = "",
    eos_token: str = "",
    tools: Sequence[object] | None = None,
    **extra: object,
) -> str:
    """The prompt that `template` (jinja2, as Hugging Face transformers renders it) makes of `messages`, each
    with a "role" and usually a "content".

    The template writes BOS itself where it wants one, so encode the prompt with `add_bos=False,
    special=True`. `extra` is handed to the template by name. Raises ValueError if the file has no template, a
    message has no role, the template refuses the messages, fails, or takes more time or memory than a
    template may.
    """
    if not template:
        raise ValueError(
            "[chat] the model file has no chat template (tokenizer.chat_template); write the prompt yourself"
        )
    for at, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(
                f"[chat] message {at} must be a mapping with a role and a content, "
                'such as {"role": "user", "content": "Hi"}'
            )
    from jinja2 import TemplateError

    from .template_sandbox import Refused, render

    variables: dict[str, object] = {
        "documents": None,
        **extra,
        "messages": [dict(m) for m in messages],
        "tools": tools,
    }
    variables |= {
        "add_generation_prompt": add_generation_prompt,
        "bos_token": bos_token,
        "eos_token": eos_token,
    }
    try:
        return render(template, variables)
    except Refused as error:
        raise ValueError(f"[chat] the chat template refuses these messages: {error}") from None
    except RecursionError:
        raise ValueError("[chat] the chat template fails: it is nested too deeply") from None
    except (
        TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        SyntaxError,
        MemoryError,
    ) as error:
        raise ValueError(f"[chat] the chat template fails: {str(error)[:300] or type(error).__name__}") from error
