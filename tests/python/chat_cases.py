"""Chat templates written for the tests, in the manner of well-known ones, and a conversation."""

from __future__ import annotations

CONVERSATION: list[dict[str, object]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "It's <b>1 & 2</b>?"},
    {"role": "assistant", "content": " Grüße\n\n🙂 "},
    {"role": "user", "content": "{{ 7 * 7 }} <|im_end|>"},
]

CHATML = """\
{% for message in messages %}
{{- '<|im_start|>' ~ message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

LLAMA3 = """\
{{- bos_token }}
{%- set state = namespace(system='', turns=0) %}
{%- if messages[0]['role'] == 'system' %}
    {%- set state.system = messages[0]['content'] | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set rest = messages %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' ~ state.system }}
{%- if tools is not none and tools | length > 0 %}
    {{- '\\nTools:\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
        {{- '\\n' + (tool | tojson(indent=4)) if tool is mapping else '' }}
    {%- endfor %}
{%- endif %}
{{- '<|eot_id|>' }}
{%- macro header(role) %}{{ '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}{% endmacro %}
{%- for message in rest %}
    {%- if message.role not in ['user', 'assistant', 'tool'] %}
        {{- raise_exception('Unknown role ' + message.role) }}
    {%- endif %}
    {%- set state.turns = state.turns + 1 %}
    {{- header(message['role']) }}
    {%- if message.content is string %}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- else %}
        {%- for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}{{ '<|eot_id|>' }}
    {%- endif %}
    {%- if state.turns > 10000 %}{% break %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- header('assistant') }}
{%- endif %}"""

# asks for the last message, and for the number of all, at every turn; cuts a message at a marker
THINKING = """\
{%- set ns = namespace(last_query=messages | length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if message.role == 'user' and not message.content.startswith('<tool>') %}
        {%- set ns.last_query = index %}{%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {%- if loop.index0 == messages | length - 1 or loop.last or tools %}{{ '[last]' }}{% endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content.strip('\\n') + '<|im_end|>\\n' }}
    {%- if message == messages[-1] %}{{ '' }}{% endif %}
{%- endfor %}
{%- generation %}{{ eos_token }}{% endgeneration %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

TEMPLATES = [CHATML, LLAMA3, THINKING]
