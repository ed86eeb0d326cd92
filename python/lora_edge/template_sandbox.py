"""A jinja2 environment for chat templates, which come with model files and are not to be trusted.

Features and settings are those that Hugging Face transformers documents for chat templates. The sandbox of
jinja2 keeps a template from Python's internals; a budget keeps it from taking the machine's time and memory:
each turn of a loop, each call and each character or item made is charged before it is made, and a render that
runs out is stopped.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_TEMPLATE = 200_000  # characters
MAX_UNITS = 20_000_000
MAX_SECONDS = 5.0
_STEP = 20  # units for a turn of a loop, a call, or a thing in a list
_MAX_WIDTH = 10_000  # of a format, an indent, a range in a filter
_MAX_BITS = 4096  # of an integer
_READS_ALL = {
    "tojson",
    "string",
    "pprint",
    "urlencode",
    "xmlattr",
    "escape",
    "e",
    "forceescape",
    "safe",
    "urlize",
}
_COMPARES = {"sort", "unique", "groupby", "min", "max", "dictsort", "sum", "list"}
_COMPARING_TESTS = {"eq", "==", "equalto", "ne", "!=", "in"}
_COMPARING_TESTS |= {"lt", "<", "lessthan", "le", "<=", "gt", ">", "greaterthan", "ge", ">="}
_LONG_NUMBER = re.compile(r"\d{4}|\*")


class Refused(TemplateError):
    """The template itself refused its input, by raise_exception(message)."""


class Budget:
    """What one render may still use."""

    def __init__(self) -> None:
        self._units = MAX_UNITS
        self._deadline = time.monotonic() + MAX_SECONDS

    def spend(self, units: int) -> None:
        self._units -= units
        if self._units < 0 or time.monotonic() > self._deadline:
            raise SecurityError("it makes too much text or runs for too long")

    def measure(self, value: object, text: bool = True) -> None:
        """Charges for the text of `value`, without making it; with text=False, for the things in it, a string
        being one.

        Lists that hold one list many times are how a small template makes a huge one."""
        if isinstance(value, (list, tuple, dict)):
            self.spend(_STEP)
            for item in value:
                self.measure(item, text)
            if isinstance(value, dict):
                for item in value.values():
                    self.measure(item, text)
        else:
            self.spend(len(value) if text and isinstance(value, str) else _STEP)


_budget: ContextVar[Budget] = ContextVar("budget")  # unset while compiling: constant folding then fails and is left out


def _spend(units: int) -> None:
    _budget.get().spend(units)


def _tick(_: object, units: int = 0) -> bool:
    _spend(_STEP + units)
    return True


def _paid(value: object) -> object:
    _budget.get().measure(value)
    return value


def _walked(value: object) -> object:
    _budget.get().measure(value, text=False)
    return value


def _counted(values: Any) -> Any:
    if isinstance(values, Sized):
        _spend(len(values))
        return values
    return _each(values)


def _each(values: Iterable[object]) -> Iterator[object]:
    for value in values:
        _spend(_STEP)
        yield value


def _charge(name: str, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Charges for what the filter or string method `name` will make of `value`, before it runs. Returns the
    value to use."""
    every = [*args, *kwargs.values()]
    if any(isinstance(a, int) and abs(a) > _MAX_WIDTH for a in every):
        raise SecurityError(f"'{name}' is given a number over {_MAX_WIDTH}")
    widest = max([abs(a) for a in every if isinstance(a, int)] + [0])
    texts = [len(a) for a in every if isinstance(a, str)]
    if name == "join":
        parts = args[0] if isinstance(value, str) and args else value
        separators = len(value) if isinstance(value, str) and args else sum(texts)
        if not isinstance(parts, (list, tuple, str)):
            parts = list(_each(parts))
        _paid(parts)
        _spend(separators * len(parts))
        if isinstance(value, str) and args:
            return value
        return parts
    if name in ("format", "format_map") or "%" in name:
        _check_format(value, every)
    size = len(value) if isinstance(value, Sized) else 0
    grows = name in ("replace", "indent", "wordwrap", "expandtabs", "translate", "xmlattr")
    _spend(_STEP + size + sum(texts) + (widest if not grows else size * (widest + sum(texts))))
    if name in _READS_ALL:
        _paid(value)
    if name in _COMPARES:
        _walked(value)
    return value


def _check_format(text: object, values: list[Any]) -> None:
    if isinstance(text, str):
        if _LONG_NUMBER.search(text):
            raise SecurityError("a format asks for a width of four digits or more")
        for value in values:
            for _ in range(min(text.count("%") + text.count("{"), 1000)):
                _paid(value)


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter `function`, charged for. Filters that take jinja's context, environment or evaluation
    context first keep it."""
    passes = hasattr(function, "jinja_pass_arg")

    def guarded(*args: Any, **kwargs: Any) -> Any:
        at = 1 if passes else 0
        value = _charge(name, args[at], args[at + 1 :], kwargs) if len(args) > at else None
        return function(*args[:at], value, *args[at + 1 :], **kwargs)

    if passes:
        guarded.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
    return guarded


def _guarded_test(function: Any) -> Callable[..., bool]:
    """A test that compares, charged for walking through what it compares."""
    return lambda *args: function(*map(_walked, args))


class _Generation(Extension):
    """{% generation %} … {% endgeneration %}, which marks the assistant's words for training, is only its
    body here."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _meter(super()._parse(source, name, filename))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _spend(_STEP)
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)  # jinja2 wraps str.format
        if isinstance(owner, str):
            _charge(getattr(__obj, "__name__", ""), owner, args, kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        lengths = [len(v) for v in (left, right) if isinstance(v, (str, list, tuple))]
        if operator == "%":
            if isinstance(left, str):
                _charge("%", left, (), {"values": right})
        elif lengths:
            times = [max(v, 0) for v in (left, right) if isinstance(v, int)] if operator == "*" else []
            _spend(sum(lengths) * (times[0] if times else 1))
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > _MAX_BITS:
                raise SecurityError(f"an integer of more than {_MAX_BITS} bits")
        return super().call_binop(context, operator, left, right)


def _meter(template: nodes.Template) -> nodes.Template:
    """Puts charges where jinja2 has no hook: turns of loops, bodies of macros, `~`, comparisons and
    slices."""

    def filtered(node: Any, name: str, *args: nodes.Expr) -> nodes.Filter:
        return nodes.Filter(
            node, name, list(args), [], None, None, lineno=node.lineno, environment=template.environment
        )

    kinds = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Concat, nodes.Compare, nodes.Getitem)
    for node in list(template.find_all(kinds)):
        if isinstance(node, nodes.Concat):
            node.nodes = [filtered(part, " paid") for part in node.nodes]
        elif isinstance(node, nodes.Compare):
            node.expr = filtered(node.expr, " walked")
            for operand in node.ops:
                operand.expr = filtered(operand.expr, " walked")
        elif isinstance(node, nodes.Getitem):
            if isinstance(node.arg, nodes.Slice):
                node.node = filtered(node.node, " paid")
        elif isinstance(node, (nodes.For, nodes.Macro, nodes.CallBlock)):
            size = nodes.Const(sum(len(data.data) for data in node.find_all(nodes.TemplateData)), lineno=node.lineno)
            tick = filtered(nodes.Const(0, lineno=node.lineno), " tick", size)
            if isinstance(node, nodes.For):
                node.iter = filtered(node.iter, " counted")
            node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
    return template


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> None:
    raise Refused(str(message)[:500])


def _strftime_now(form: str) -> str:
    if len(form) > 200 or _LONG_NUMBER.search(form):
        raise SecurityError("a date format that is too long")
    return datetime.now().strftime(form)


@lru_cache(maxsize=8)
def compile_template(source: str) -> Template:
    """The template, ready for `render`. Raises jinja2.TemplateError."""
    if len(source) > MAX_TEMPLATE:
        raise SecurityError(f"it has {len(source)} characters; {MAX_TEMPLATE} are allowed")
    env: Environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        extensions=[loopcontrols, _Generation],
        finalize=_paid,
    )
    env.filters["tojson"] = _tojson
    env.filters = {name: _guarded(name, function) for name, function in env.filters.items()}
    env.tests |= {name: _guarded_test(env.tests[name]) for name in _COMPARING_TESTS & env.tests.keys()}
    env.filters |= {
        " paid": _paid,
        " walked": _walked,
        " counted": _counted,
        " tick": _tick,
    }  # names that no template can spell
    env.globals = {key: env.globals[key] for key in ("range", "dict", "cycler", "joiner", "namespace")}
    env.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return env.from_string(source)


def render(source: str, variables: Mapping[str, object]) -> str:
    """Renders within the budget. Raises jinja2.TemplateError (`Refused` for raise_exception) or whatever
    Python error the template provokes."""
    template = compile_template(source)
    token = _budget.set(Budget())
    try:
        return template.render(**variables)
    finally:
        _budget.reset(token)
