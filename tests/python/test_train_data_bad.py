"""Bad training data: each kind gets one clear line that names the file, the line and the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lora_edge.tokenizer import Tokenizer
from lora_edge.train.data import load_data
from train_cases import KINDS, small_tokenizer, word_piece, write_jsonl

N_CTX = 32
GOOD = b'{"text": "a good line"}\n'
LABELLED = b'{"text": "on", "label": "yes"}\n{"text": "off", "label": "no"}\n'


def chat(*messages: Any) -> bytes:
    return json.dumps({"messages": messages}).encode() + b"\n"


def said(role: str, content: Any = "hello") -> dict[str, Any]:
    return {"role": role, "content": content}


TALK = chat(said("user"), said("assistant"))

# name: train.jsonl, the line that is wrong (0: the file), and what is said about it
BAD_LINES: dict[str, tuple[bytes, int, str]] = {
    "empty file": (b"", 0, "is empty"),
    "blank lines only": (b"\n \n\n", 0, "is empty"),
    "bad JSON": (GOOD + b'{"text": "a"\n', 2, "is not JSON (Expecting ',' delimiter at column 13)"),
    "pretty-printed JSON": (b'{\n "text": "a"\n}\n', 1, "one object per line"),
    "one array of all": (b'[\n{"text": "a"}\n]', 1, "one object per line"),
    "two objects in a line": (GOOD[:-1] + GOOD, 1, "is not JSON (Extra data"),
    "a list": (GOOD + b'["text"]\n', 2, 'is a list, not a JSON object such as {"text": "..."}'),
    "a bare text": (b'"text"\n', 1, "is a text, not a JSON object"),
    "null": (b"null\n", 1, "is null, not a JSON object"),
    "not UTF-8": (GOOD + '{"text": "Grüße"}\n'.encode("latin-1"), 2, "is not UTF-8 text (byte 13 is 0xfc)"),
    "UTF-16": ('{"text": "a"}\n'.encode("utf-16"), 0, "is UTF-16 text: save it as UTF-8"),
    "UTF-16 without a mark": ('{"text": "a"}\n'.encode("utf-16-le"), 1, "holds a NUL byte"),
    "NUL": (GOOD + b'{"text": "a\0b"}\n', 2, "holds a NUL byte"),
    "gzip": (b"\x1f\x8b\x08\x08abc\n", 1, "is not UTF-8 text"),
    "lone surrogate": (GOOD + b'{"text": "a\\ud800"}\n', 2, "a lone surrogate at position 1"),
    "key twice": (b'{"text": "a", "text": "b"}\n', 1, "the key 'text' occurs twice"),
    "nested too deeply": (b'{"text": ' + b"[" * 100_000 + b"\n", 1, "is nested too deeply"),
    "number with too many digits": (b'{"label": ' + b"1" * 5000 + b', "text": "a"}\n', 1, "too many digits"),
    "NaN": (b'{"text": "a", "label": NaN}\n', 1, "NaN is no JSON number"),
    "wrong keys": (b'{"instruction": "a", "output": "b"}\n', 1, "has the keys 'instruction', 'output'; known are"),
    "ShareGPT": (b'{"conversations": []}\n', 1, "has the keys 'conversations'; known are"),
    "no keys": (b"{}\n", 1, "has the keys none; known are"),
    "two formats in one line": (b'{"text": "a", "messages": []}\n', 1, "which are two formats at once"),
    "two formats in one file": (GOOD + TALK, 2, "has the format chat, line 1 has text: one format per file"),
    "text of a wrong type": (GOOD + b'{"text": 5}\n', 2, '"text" is a number, not a text'),
    "text is null": (b'{"text": null}\n', 1, '"text" is null, not a text'),
    "empty text": (GOOD * 3 + b'{"text": " "}\n', 4, '"text" is empty'),
    "empty prompt": (b'{"prompt": "", "completion": "a"}\n', 1, '"prompt" is empty'),
    "empty completion": (b'{"prompt": "a", "completion": ""}\n', 1, '"completion" is empty'),
    "list for a completion": (b'{"prompt": "a", "completion": ["b"]}\n', 1, "must both be texts, or both lists"),
    "messages are no list": (b'{"messages": "hi"}\n', 1, '"messages" is a text, not a list of messages'),
    "no messages": (b'{"messages": []}\n', 1, '"messages" is empty, not a list of messages'),
    "message is no object": (TALK + chat("hi"), 2, '"messages": message 0 is a text, not an object'),
    "wrong role": (chat(said("human"), said("gpt")), 1, "message 0 has the role 'human'; known are system"),
    "no role": (chat({"content": "a"}), 1, "message 0 has no role; known are"),
    "role is no text": (chat({"role": ["user"], "content": "a"}), 1, "message 0 has the role ['user']"),
    "no content": (chat({"role": "user"}), 1, "the content of message 0 is null, not a text"),
    "empty turn": (TALK + chat(said("user"), said("assistant", "")), 2, "message 1 (assistant) is empty"),
    "no assistant turn": (chat(said("system"), said("user")), 1, "has no turn of the assistant"),
    "assistant speaks first": (chat(said("assistant"), said("user")), 1, "does not show where the assistant begins"),
    "tools are no list": (b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], '
                          b'"tools": "x"}\n', 1, '"tools" is a text, not a list'),
    "prompt longer than the context": (b'{"prompt": "' + b"a b " * 40 + b'", "completion": "c"}\n', 1,
                                       f"the context {N_CTX}: nothing is left to learn"),
    "conversation's prompt longer than the context": (chat(said("user", "a b " * 40), said("assistant")), 1,
                                                      f"the context {N_CTX}: nothing is left to learn"),
    "preferences without a prompt": (b'{"chosen": "a", "rejected": "b"}\n', 1, 'there is no "prompt" that it answers'),
    "preferred conversation without an answer": (
        b'{"rejected": [], "chosen": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "a"}]}\n',
        1, '"chosen" does not end with a turn of the assistant'),
    "no label": (LABELLED + b'{"text": "on"}\n', 3, "has the format text, line 1 has label"),
    "label is null": (b'{"text": "on", "label": null}\n', 1, '"label" is null, not a text or a whole number'),
    "label is a fraction": (b'{"text": "on", "label": 0.5}\n', 1, '"label" is a number (0.5), not a text or a whole'),
    "label is true": (b'{"text": "on", "label": true}\n', 1, '"label" is true or false, not'),
    "label is huge": (b'{"text": "on", "label": 99999999999}\n', 1, '"label" 99999999999 is too large a number'),
    "empty label": (b'{"text": "on", "label": " "}\n', 1, '"label" is empty'),
    "numbers and texts as labels": (LABELLED + b'{"text": "a", "label": 1}\n', 3,
                                    """"label" '1' is a number, that of line 1 is a text"""),
    "one class only": (b'{"text": "on", "label": "yes"}\n' * 3, 0, "has one label only, 'yes'"),
    "half a pair": (b'{"sentence1": "a", "label": 1}\n', 1, "has the keys 'sentence1', 'label'; known are"),
}  # fmt: skip

BAD_TSV: dict[str, tuple[bytes, int, str]] = {
    "no header": (b"turn on\tyes\nturn off\tno\n", 1, "the header has the keys 'turn on', 'yes'; known are"),
    "header only": (b"text\tlabel\n", 0, "has a header and no rows"),
    "too few columns": (b"text\tlabel\na\tyes\nb\n", 3, "has 1 columns, the header has 2"),
    "too many columns": (b"text\tlabel\na\tyes\tno\n", 2, "has 3 columns, the header has 2"),
    "column twice": (b"text\ttext\tlabel\n", 1, "a name twice"),
    "column without a name": (b"text\t\tlabel\n", 1, "a column without a name"),
    "commas": (b"text,label\na,yes\nb,no\n", 1, "the header has the keys 'text,label'; known are"),
    "empty cell": (b"text\tlabel\na\tyes\n\tno\n", 3, '"text" is empty'),
    "TSV not UTF-8": (b"text\tlabel\n\xff\tyes\n", 2, "is not UTF-8 text (byte 1 is 0xff)"),
    "TSV is empty": (b"", 0, "is empty"),
}


def refused(folder: Path, tokenizer: Any, **options: Any) -> str:
    with pytest.raises(ValueError) as error:
        load_data(folder, tokenizer, **{"n_ctx": N_CTX, **options})
    text = str(error.value)
    assert type(error.value) is ValueError and "\n" not in text and len(text) < 400 + len(str(folder))
    return text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_lines(tmp_path: Path, case: str, kind: str) -> None:
    raw, line, what = BAD_LINES[case]
    path = tmp_path / "train.jsonl"
    path.write_bytes(raw)
    text = refused(tmp_path, small_tokenizer(kind))
    assert text.startswith(f"[data] '{path}'" + (f" line {line}: " if line else " "))
    assert what in text


@pytest.mark.parametrize("case", BAD_TSV)
def test_bad_tables(tmp_path: Path, case: str) -> None:
    raw, line, what = BAD_TSV[case]
    path = tmp_path / "train.tsv"
    path.write_bytes(raw)
    text = refused(tmp_path, small_tokenizer("qwen2"))
    assert text.startswith(f"[data] '{path}'" + (f" line {line}: " if line else " "))
    assert what in text


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("case", ["bad JSON", "not UTF-8", "wrong keys", "empty text", "empty file"])
def test_bad_lines_of_other_files(tmp_path: Path, split: str, case: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(GOOD)
    (tmp_path / f"{split}.jsonl").write_bytes(BAD_LINES[case][0])
    assert BAD_LINES[case][2] in refused(tmp_path, small_tokenizer("qwen2"))
    assert f"{split}.jsonl'" in refused(tmp_path, small_tokenizer("qwen2"))


@pytest.mark.parametrize("classify", ["labels", "head"])
def test_label_that_training_never_sees(tmp_path: Path, classify: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(LABELLED)
    (tmp_path / "valid.jsonl").write_bytes(b'{"text": "a", "label": "yes"}\n{"text": "b", "label": "maybe"}\n')
    text = refused(tmp_path, small_tokenizer("qwen2"), classify=classify)
    assert """valid.jsonl' line 2: "label" 'maybe' occurs in no line of the training file (no, yes)""" in text


def test_other_task_in_another_file(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(LABELLED)
    (tmp_path / "valid.jsonl").write_bytes(GOOD)
    assert "valid.jsonl' has the format text, the training file label" in refused(tmp_path, small_tokenizer("qwen2"))
    (tmp_path / "valid.jsonl").write_bytes(b'{"premise": "a", "hypothesis": "b", "label": "yes"}\n')
    assert "valid.jsonl' has the format pair, the training file label" in refused(tmp_path, small_tokenizer("qwen2"))


def test_model_without_a_chat_template(tmp_path: Path) -> None:
    plain = small_tokenizer("qwen2", template=None)
    (tmp_path / "train.jsonl").write_bytes(TALK)
    assert "line 1: needs a chat template, and the model has none" in refused(tmp_path, plain)
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": "a", "completion": "b"}])
    assert "needs a chat template" in refused(tmp_path, plain, chat_template=True)
    assert load_data(tmp_path, plain, n_ctx=N_CTX).train


def test_template_that_refuses_or_hides(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(TALK + chat(said("system"), said("user"), said("assistant")))
    no_system = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    no_system += "{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    text = refused(tmp_path, small_tokenizer("qwen2", no_system))
    assert "line 2: [chat] the chat template refuses these messages: no system" in text
    silent = "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}"
    assert "line 1: the model's chat template does not show" in refused(tmp_path, small_tokenizer("qwen2", silent))
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": "a b", "completion": "c"}])  # a request, and the answer follows
    tokenizer = small_tokenizer("qwen2", silent)
    (example,) = load_data(tmp_path, tokenizer, n_ctx=N_CTX).train
    assert tokenizer.decode(example.ids[~example.learn].tolist()) == "a b"
    assert tokenizer.decode(example.ids[example.learn].tolist()).startswith("c") and example.ids[-1] == tokenizer.eos_id


def test_one_token_is_nothing_to_learn(tmp_path: Path) -> None:
    meta_less = small_tokenizer("qwen2")
    meta_less.eos_id = None
    write_jsonl(tmp_path / "train.jsonl", [{"text": "a"}])
    assert "line 1: all tokens are masked, of 1 in this model's vocabulary" in refused(tmp_path, meta_less)


def test_texts_without_tokens(tmp_path: Path) -> None:
    """Vocabularies may lack bytes, and tokenizers leave these out."""
    blind = small_tokenizer("qwen2")
    blind.encode = lambda text, *a, **k: [] if "a" in text and "label" not in text else [9]  # type: ignore[method-assign]
    write_jsonl(tmp_path / "train.jsonl", [{"text": "b"}, {"text": "a"}])
    assert "line 2: all tokens are masked, of 1 in" in refused(tmp_path, blind)
    write_jsonl(tmp_path / "train.jsonl", [{"text": "b", "label": "x"}, {"text": "a", "label": "y"}])
    assert "line 2: the text has no tokens in this model's" in refused(tmp_path, blind, classify="head")


def test_labels_that_look_the_same_to_the_model(tmp_path: Path) -> None:
    meta_less = small_tokenizer("qwen2")
    meta_less.encode = lambda text, *a, **k: [1, 2]  # type: ignore[method-assign]
    (tmp_path / "train.jsonl").write_bytes(LABELLED)
    assert "the labels 'no' and 'yes' are the same tokens" in refused(tmp_path, meta_less)


def test_no_room_for_the_text(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(LABELLED)
    text = refused(tmp_path, small_tokenizer("qwen2"), n_ctx=6)
    assert "line 1: the context of 6 tokens has no room for the text beside the prompt and the label" in text


def test_all_dropped(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"text": "a b c " * 20}] * 3)
    text = refused(tmp_path, small_tokenizer("qwen2"), too_long="drop")
    assert text.endswith("train.jsonl' has nothing left: all of its 3 lines are too long")


def test_encoders_need_labels_and_a_head(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(GOOD)
    assert "has no labels, which are needed as the model is an encoder" in refused(tmp_path, word_piece())
    assert "classify='head'" in refused(tmp_path, small_tokenizer("qwen2"), classify="head")
    (tmp_path / "train.jsonl").write_bytes(LABELLED)
    assert "classify with a head" in refused(tmp_path, word_piece(), classify="labels")


def test_missing_files(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("qwen2")
    with pytest.raises(FileNotFoundError) as missing:
        load_data(tmp_path / "nope", tokenizer, n_ctx=N_CTX)
    assert missing.value.filename == str(tmp_path / "nope")
    file = write_jsonl(tmp_path / "data.jsonl", [{"text": "a"}])
    with pytest.raises(NotADirectoryError) as wrong:
        load_data(file, tokenizer, n_ctx=N_CTX)
    assert wrong.value.filename == str(file)
    with pytest.raises(FileNotFoundError, match=r"has no train\.jsonl and no train\.tsv"):
        load_data(tmp_path, tokenizer, n_ctx=N_CTX)
    file.rename(tmp_path / "train.jsonl")
    write_jsonl(tmp_path / "validation.jsonl", [{"text": "a"}])
    with pytest.raises(FileNotFoundError, match=r"has validation\.jsonl: rename it to valid\.jsonl"):
        load_data(tmp_path, tokenizer, n_ctx=N_CTX)
    (tmp_path / "validation.jsonl").unlink()
    (tmp_path / "train.tsv").write_text("text\na\n")
    assert "has both train.jsonl and train.tsv: keep one" in refused(tmp_path, tokenizer)
    (tmp_path / "train.tsv").unlink()
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.jsonl").mkdir()
    with pytest.raises(IsADirectoryError):
        load_data(tmp_path, tokenizer, n_ctx=N_CTX)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"n_ctx": 1}, "n_ctx is 1, not a whole number from 2"),
        ({"too_long": "cut"}, "too_long is 'cut'; 'truncate', 'split', 'drop' are possible"),
        ({"classify": "heads"}, "classify is 'heads'; 'labels', 'head' are possible"),
        ({"label_prompt": "label:"}, r"the prompt 'label:' must have {text}"),
        ({"label_prompt": "{text} {mood}"}, "has 'mood' in braces; it may have {text}"),
        ({"label_prompt": "{text"}, "can't be read: expected '}' before end of string"),
        ({"label_prompt": "{text!r}"}, "has 'text' in braces; it may have {text}"),
    ],
)
def test_options(tmp_path: Path, options: dict[str, Any], what: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(LABELLED)
    assert what in refused(tmp_path, small_tokenizer("qwen2"), **options)


def test_what_looks_odd_and_is_fine(tmp_path: Path) -> None:
    """A byte order mark, CRLF, blank lines, no end of the last line, other keys, escapes, U+2028 in a text."""
    raw = '\ufeff{"text": "a", "id": 7}\r\n\r\n{"text": "b\\u0000\\ud83d\\ude42\u2028c", "id": 8}'
    (tmp_path / "train.jsonl").write_bytes(raw.encode())
    tokenizer: Tokenizer = small_tokenizer("llama")
    data = load_data(tmp_path, tokenizer, n_ctx=N_CTX)
    assert [e.line for e in data.train] == [1, 3]
    assert tokenizer.decode(data.train[1].ids.tolist()) == "b\0🙂\u2028c"
