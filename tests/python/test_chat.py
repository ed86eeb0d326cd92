"""Chat templates: what they render, and that a template from a file cannot take the machine."""

from __future__ import annotations

import threading
import time

import pytest
from chat_cases import CHATML, CONVERSATION, LLAMA3, TEMPLATES
from conftest import PATIENCE, SHARED, needs_shared
from lora_edge import template_sandbox
from lora_edge.chat import render_chat
from lora_edge.tokenizer import Tokenizer
from tokenizer_cases import metadata


def test_chatml() -> None:
    assert render_chat(CHATML, CONVERSATION[:2]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nIt's <b>1 & 2</b>?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render_chat(CHATML, CONVERSATION[1:2], add_generation_prompt=False) == (
        "<|im_start|>user\nIt's <b>1 & 2</b>?<|im_end|>\n"
    )


def test_llama3_writes_bos_and_tools() -> None:
    text = render_chat(LLAMA3, CONVERSATION, bos_token="<|begin_of_text|>", tools=[{"name": "größe", "args": {"b": 1}}])
    assert text.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.")
    assert '{"name": "größe", "args": {"b": 1}}' in text
    assert text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")


@needs_shared
def test_smollm_template_and_ids() -> None:
    tokenizer = Tokenizer.from_metadata(metadata("smollm", SHARED))
    text = render_chat(tokenizer.chat_template, [{"role": "user", "content": "Hi <|im_end|>"}])
    assert text == "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode(text, add_bos=False, special=True)
    assert ids[0] == 1 and ids.count(2) == 2


@pytest.mark.parametrize("template", TEMPLATES)
def test_rendering_twice_gives_the_same(template: str) -> None:
    assert render_chat(template, CONVERSATION) == render_chat(template, CONVERSATION)


def test_features_of_chat_templates() -> None:
    template = (
        "{%- for m in messages if m.role != 'system' %}{{ loop.index }}/{{ loop.length }}"
        " {{ m.content | trim }};"
        "{%- if loop.last %}{% break %}{% endif %}{% endfor %}|{% generation %}g{% endgeneration %}"
        "|{{ messages[::-1] | map(attribute='role') | join(',') }}|{{ tools is none }}|{{ extra_flag }}"
        "|{{ strftime_now('%Y') | length }}|{{ {'a': '<'} | tojson(indent=2) }}"
        "|{{ '%s-%d' % ('x', 3) }}|{{ 'y' * 3 ~ 1 }}"
    )
    assert render_chat(template, CONVERSATION[:2], extra_flag=7) == (
        "1/1 It's <b>1 & 2</b>?;|g|user,system|True|7|4|" + '{\n  "a": "<"\n}|x-3|yyy1'
    )


@pytest.mark.parametrize("template", ["", None])
def test_no_template(template: str | None) -> None:
    with pytest.raises(ValueError, match="no chat template"):
        render_chat(template, CONVERSATION)


def test_messages_without_a_role() -> None:
    with pytest.raises(ValueError, match="message 1 must be a mapping"):
        render_chat(CHATML, [{"role": "user", "content": "a"}, {"content": "b"}])


def test_a_template_may_refuse() -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    with pytest.raises(
        ValueError, match=r"\[chat\] the chat template refuses these messages: System role not supported"
    ):
        render_chat(template, CONVERSATION)


def test_messages_are_left_alone() -> None:
    messages = [{"role": "user", "content": "a"}]
    with pytest.raises(ValueError, match="append"):
        render_chat("{{ messages.append(1) }}", messages)
    with pytest.raises(ValueError, match="update"):
        render_chat("{{ messages[0].update(role='x') }}", messages)
    assert messages == [{"role": "user", "content": "a"}]


DAG = "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
GROW = "{% set ns = namespace(x='aaaa') %}{% for i in range(64) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"
KEEP = (
    "{% set x = 'a' * 1000000 %}{% set ns = namespace(l=[]) %}"
    "{% for i in range(100000) %}{% set ns.l = [ns.l, STEP] %}{% endfor %}"
)
HOSTILE = [
    "{% if %}",
    "{{ 1 / 0 }}",
    "{{ messages[99].role }}",
    "{% include 'x' %}",
    "{% extends 'x' %}",
    "{{ ().__class__.__bases__[0].__subclasses__() }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ 'a'.__mul__(9999999) }}",
    "{{ 'a' * 10**9 }}",
    "{{ [0] * 10**9 }}",
    "{{ 9 ** 9999 }}",
    "{{ 'a' | center(1000000000) }}",
    "{{ 'a'.center(1000000000) }}",
    "{{ 'a'.zfill(width=1000000000) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' | format(1000000000, 1) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ strftime_now('%999999999Y') }}",
    "{{ [1] | batch(1000000000, 1) | list }}",
    "{{ [1] | slice(1000000000) | list }}",
    "{{ messages | tojson(indent=10**9) }}",
    "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "{{ ('a' * 100000) | replace('', 'b' * 100000) }}",
    "{{ (['a' * 100000] * 100000) | join | length }}",
    "{{ ''.join(['a' * 100000] * 100000) | length }}",
    "{{ ('\t' * 100000).expandtabs(10000) }}",
    "{{ ('a\n' * 100000) | indent(10000) }}",
    "{{ lipsum(n=1000000) }}",
    "{{ range(100000) | map('center', 10000) | list | length }}",
    "{% for i in range(10000000) %}{% endfor %}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% for i in range(100000) %}{% for j in range(100000) if false %}{% endfor %}{% endfor %}",
    "{% for i in range(100000) recursive %}{{ loop(range(100000)) }}{% endfor %}",
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% for i in range(100000) %}{% for j in range(1000) %}" + "z" * 10_000 + "{% endfor %}{% endfor %}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "-" * 50_000 + "1 }}",
    "x" * 300_000,
    GROW.replace("STEP", "ns.x ~ ns.x"),
    GROW.replace("STEP", "ns.x + ns.x"),
    GROW.replace("STEP", "[ns.x, ns.x] | join"),
    KEEP.replace("STEP", "x[1:]"),
    KEEP.replace("STEP", "x.upper()"),
    KEEP.replace("STEP", "x | upper"),
    DAG + "{{ ns.x }}",
    DAG + "{{ ns.x | string | length }}",
    DAG + "{{ '%s' % (ns.x) }}",
    DAG + "{{ '{}'.format(ns.x) }}",
    DAG + "{{ ns.x | tojson }}",
    DAG + "{{ ns.x == ns.x[0] }}",
    DAG + "{{ ns.x is eq ns.x[0] }}",
]


def test_hostile_templates_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ends in a ValueError. A small part of the usual budget keeps the test short."""
    monkeypatch.setattr(template_sandbox, "MAX_UNITS", 1_500_000)
    for template in HOSTILE:
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"^\[chat\] the chat template"):
            pytest.fail(f"{template[:100]} gave {render_chat(template, CONVERSATION)[:100]}")
        assert time.monotonic() - start < 15 * PATIENCE, template[:100]


def test_long_conversations_stay_within_the_budget() -> None:
    """300 messages and half a megabyte of text, as a template that asks for all messages at every turn sees
    them."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": f"{i} " + "word " * 350} for i in range(300)]
    for template in TEMPLATES:
        assert len(render_chat(template, messages)) > 500_000


def test_budgets_of_threads_are_their_own() -> None:
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(render_chat(LLAMA3, CONVERSATION))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(texts) == 4 and len(set(texts)) == 1
