"""What lines of training data become: ids, what is learned, what is left out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_cases import CHATML, CONVERSATION, LLAMA3
from conftest import SHARED, needs_shared
from hypothesis import given, strategies as st
from lora_edge.chat import render_chat
from lora_edge.tokenizer import Tokenizer
from lora_edge.train.data import Data, load_data
from lora_edge.train.data.encoding import Encoding
from lora_edge.train.data.formats import Completion, Text, format_of
from tokenizer_cases import metadata, random_text, small_vocabulary, words_of
from train_cases import KINDS, shown, small_tokenizer, word_piece, write_jsonl


def load(folder: Path, rows: list[Any], tokenizer: Any, name: str = "train.jsonl", **options: Any) -> Data:
    write_jsonl(folder / name, rows)
    return load_data(folder, tokenizer, **{"n_ctx": 512, **options})


def texts_of(kind: str, n: int) -> list[str]:
    rng = random.Random()
    words = words_of(small_vocabulary(kind))
    found: list[str] = []
    while len(found) < n:
        text = random_text(rng, words)
        if text.strip() and text.isprintable():
            found.append(text)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_learned_whole_and_end(tmp_path: Path, kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    texts = texts_of(kind, 50)
    data = load(tmp_path, [{"text": text} for text in texts], tokenizer)
    assert [e.line for e in data.train] == list(range(1, 51))
    for example, text in zip(data.train, texts):
        ids = tokenizer.encode(text, special=True)
        ids += [] if ids[-1] in tokenizer.stop_ids else [tokenizer.eos_id]
        assert example.ids.tolist() == ids and example.ids.dtype == np.int32
        assert not example.learn[0] and example.learn[1:].all()
    report = data.reports["train"]
    assert report.tokens == sum(map(len, data.train)) and report.learned == report.tokens - len(texts)
    assert report.truncated == report.dropped == 0 and data.valid == data.test == [] and data.labels is None


@pytest.mark.parametrize("kind", KINDS)
def test_completions_follow_the_prompt_as_when_it_is_asked(tmp_path: Path, kind: str) -> None:
    tokenizer = small_tokenizer(kind, template=None)
    pairs = list(zip(texts_of(kind, 40), texts_of(kind, 40)))
    data = load(tmp_path, [{"prompt": p, "completion": c} for p, c in pairs], tokenizer)
    for example, (prompt, completion) in zip(data.train, pairs):
        asked = tokenizer.encode(prompt, special=True)
        answer = tokenizer.encode(completion, add_bos=False, special=True, after=asked[-1])
        assert example.ids.tolist()[: len(asked + answer)] == asked + answer
        assert example.ids[-1] in tokenizer.stop_ids
        assert example.n_prompt == len(asked) and not example.learn[: len(asked)].any()
        assert example.learn[len(asked) :].all()


def test_prompts_go_through_the_template_where_there_is_one(tmp_path: Path) -> None:
    rows = [{"prompt": "Hi", "completion": "Hello"}]
    tokenizer = small_tokenizer("qwen2")
    through = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Hello<|im_end|>]"
    assert shown(tokenizer, load(tmp_path, rows, tokenizer).train[0]) == through
    plain = load(tmp_path, rows, tokenizer, chat_template=False).train[0]
    assert shown(tokenizer, plain) == "Hi[Hello<|im_end|>]"
    as_messages = [
        {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hello"}]}
    ]
    assert shown(tokenizer, load(tmp_path, as_messages, tokenizer).train[0]) == through


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "Bye"},
]


def test_assistants_turns_are_learned_and_nothing_after_the_last(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("qwen2")
    example = load(tmp_path, [{"messages": TALK}], tokenizer).train[0]
    assert shown(tokenizer, example) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n"
        "<|im_start|>assistant\n[1<|im_end|>]\n<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n[2<|im_end|>]"
    )
    whole = load(tmp_path, [{"messages": TALK}], tokenizer, mask_prompt=False).train[0]
    assert whole.learn[1:].all()
    assert shown(tokenizer, whole).replace("[", "").replace("]", "") == render_chat(
        CHATML, TALK, add_generation_prompt=False
    )
    last = [{"prompt": TALK[:4], "completion": TALK[4:5]}]
    assert shown(tokenizer, load(tmp_path, last, tokenizer).train[0]).endswith(
        "assistant\n1<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n[2<|im_end|>]"
    )


@pytest.mark.parametrize("template", [CHATML, LLAMA3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_has_the_ids_of_its_rendered_text(tmp_path: Path, kind: str, template: str) -> None:
    tokenizer = small_tokenizer(kind, template)
    data = load(tmp_path, [{"messages": TALK}, {"messages": CONVERSATION[:3]}], tokenizer, mask_prompt=False)
    bos = tokenizer.token_text(tokenizer.bos_id) if tokenizer.bos_id is not None else ""
    for example, messages in zip(data.train, (TALK, CONVERSATION[:3])):
        text = render_chat(template, messages, add_generation_prompt=False, bos_token=bos)
        assert example.ids.tolist() == tokenizer.encode(
            text, add_bos=False if text.startswith(bos) else None, special=True
        )


def test_turns_that_the_template_writes_anew_are_counted(tmp_path: Path) -> None:
    forgetful = (
        "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
        "{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    tokenizer = small_tokenizer("qwen2", forgetful)
    data = load(tmp_path, [{"messages": TALK[:5]}], tokenizer)
    assert shown(tokenizer, data.train[0]).endswith("assistant:1\nuser:Two?\nassistant:[<think></think>2\n]")
    assert data.reports["train"].lost_turns == 1
    assert any("1 turns of the assistant are not learned" in line for line in data.lines())


def test_truncation_is_reported(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("qwen2", template=None)
    rows = [{"text": "a b c d"}, {"text": "a b c d " * 20}, {"text": "e f g h " * 30}]
    whole = load(tmp_path, rows, tokenizer).train
    data = load(tmp_path, rows, tokenizer, n_ctx=16)
    report = data.reports["train"]
    assert report.truncated == 2 and report.longest == 16
    assert report.cut == sum(len(e) - 16 for e in whole[1:])
    assert [e.ids.tolist() for e in data.train] == [e.ids.tolist()[:16] for e in whole]
    assert any(f"2 examples were truncated: {report.cut} tokens" in line for line in data.lines())
    dropped = load(tmp_path, rows, tokenizer, n_ctx=16, too_long="drop")
    assert [e.line for e in dropped.train] == [1] and dropped.reports["train"].dropped == 2
    assert dropped.reports["train"].dropped_tokens == sum(map(len, whole[1:]))
    prompts = [{"prompt": "a b c", "completion": "d e f g h"}]
    [full] = load(tmp_path, prompts, tokenizer).train
    [cut] = load(tmp_path, prompts, tokenizer, n_ctx=full.n_prompt + 1).train
    assert cut.n_learned == 1 and cut.ids.tolist() == full.ids.tolist()[: full.n_prompt + 1]


@pytest.mark.parametrize("kind", KINDS)
@given(n_ctx=st.integers(2, 40), words=st.lists(st.sampled_from(["a", "the ", "\n", "Hello", "é", " "]), min_size=1))
def test_split_learns_each_token_once(kind: str, n_ctx: int, words: list[str]) -> None:
    encoding = Encoding(small_tokenizer(kind), n_ctx, too_long="split")
    record = Text("a" + "".join(words))
    made = encoding.make(record, 1)
    [whole] = Encoding(small_tokenizer(kind), 1 << 20).make(record, 1).examples
    assert made.cut == 0 and all(2 <= len(e) <= n_ctx for e in made.examples)
    learned = np.concatenate([e.ids[e.learn] for e in made.examples])
    assert learned.tolist() == whole.ids[1:].tolist()


@given(text=st.text(min_size=1), more=st.text(min_size=1))
def test_any_text(text: str, more: str) -> None:
    for kind in KINDS:
        tokenizer = small_tokenizer(kind, template=None)
        try:
            [example] = Encoding(tokenizer, 1 << 20).make(Completion(text, more), 1).examples
        except ValueError:
            with pytest.raises(UnicodeEncodeError):
                (text + more).encode()
            continue
        assert example.n_learned >= 1 and not example.learn[0]
        assert len(example.ids) == len(example.learn) > example.n_prompt


def test_held_out_examples_that_are_not(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("qwen2")
    write_jsonl(tmp_path / "valid.jsonl", [{"text": "a"}, {"text": "b"}, {"text": "c"}, {"text": "a"}])
    data = load(tmp_path, [{"text": "a"}, {"text": "a"}, {"text": "d"}], tokenizer)
    assert data.reports["valid"].repeated == 2 and data.reports["train"].repeated == 0
    assert any(line.startswith("valid.jsonl: 2 examples are in the training file, too") for line in data.lines())


def test_labels_by_scores(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("llama")
    rows = [{"text": "turn it on", "label": "on"}, {"text": "stop", "label": "off"}, {"text": "go", "label": "on"}]
    write_jsonl(tmp_path / "valid.jsonl", rows[:1])
    data = load(tmp_path, rows, tokenizer)
    labels = data.labels
    assert labels is not None and labels.names == ("off", "on") and not labels.head
    assert [e.label for e in data.train] == [1, 0, 1] and [e.label for e in data.valid] == [1]
    assert shown(tokenizer, data.train[0]) == "<s> turn it on\nlabel:[ on</s>]"
    for example in data.train:
        candidates = labels.candidates(example)
        assert [c.label for c in candidates] == [0, 1]
        assert candidates[example.label].ids.tolist() == example.ids.tolist()
        assert candidates[example.label].learn.tolist() == example.learn.tolist()
        assert {c.ids[: c.n_prompt].tobytes() for c in candidates} == {example.ids[: example.n_prompt].tobytes()}
    own = load(tmp_path, rows, tokenizer, label_prompt="<{text}> is")
    assert shown(tokenizer, own.train[1]) == "<s> <stop> is[ off</s>]"


def test_labels_by_a_head(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("llama")
    data = load(tmp_path, [{"text": f"t{i}", "label": i} for i in (10, 9, 2)], tokenizer, classify="head")
    assert data.labels is not None and data.labels.names == ("2", "9", "10") and data.labels.head
    assert [e.label for e in data.train] == [2, 1, 0] and not any(e.learn.any() for e in data.train)
    assert shown(tokenizer, data.train[0]) == "<s> t10"
    assert data.lines()[-1] == "3 labels, by a head"


@pytest.mark.parametrize("keys", [("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2")])
def test_pairs(tmp_path: Path, keys: tuple[str, str]) -> None:
    tokenizer = small_tokenizer("qwen2")
    rows = [dict(zip((*keys, "label", "idx"), ("one", "two", label, 7))) for label in (1, 0)]
    data = load(tmp_path, rows, tokenizer)
    assert shown(tokenizer, data.train[0]) == "one\ntwo\nlabel:[ 1<|im_end|>]"
    head = load(tmp_path, rows, tokenizer, classify="head")
    assert shown(tokenizer, head.train[0]) == "one\ntwo"


def test_tables_are_as_lines(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("qwen2")
    rows = [{"sentence": 'say "hi"', "label": "b"}, {"sentence": " it's", "label": "a"}]
    listed = load(tmp_path, rows, tokenizer).train
    (tmp_path / "train.jsonl").unlink()
    table = "idx\tsentence\tlabel\n" + "".join(f"{i}\t{r['sentence']}\t{r['label']}\r\n" for i, r in enumerate(rows))
    (tmp_path / "train.tsv").write_bytes(table.encode())
    found = load_data(tmp_path, tokenizer, n_ctx=512).train
    assert [e.ids.tolist() for e in found] == [e.ids.tolist() for e in listed]
    assert [e.line for e in found] == [2, 3]


def test_long_texts_lose_their_end_and_never_the_label(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("qwen2")
    rows = [{"sentence1": "a " * 50, "sentence2": "b " * 9, "label": x} for x in "xy"]
    data = load(tmp_path, rows, tokenizer, n_ctx=32)
    for example, label in zip(data.train, "xy"):
        assert len(example) == 32
        text = shown(tokenizer, example)
        assert text.endswith(f"\nlabel:[ {label}<|im_end|>]") and text.startswith("a a a ") and "\nb b b" in text
    report = data.reports["train"]
    full = load(tmp_path, rows, tokenizer).train
    assert report.truncated == 2 and report.cut == sum(len(e) for e in full) - 64


def test_encoders_keep_their_special_tokens(tmp_path: Path) -> None:
    tokenizer = word_piece()
    rows = [{"sentence1": "a a a a a a", "sentence2": "b c", "label": i} for i in range(2)]
    [example, _] = load(tmp_path, rows, tokenizer).train
    assert example.parts is not None
    assert example.ids.tolist() == [2, 5, 5, 5, 5, 5, 5, 3, 6, 7, 3]
    assert example.parts.tolist() == [0] * 8 + [1] * 3
    [cut, _] = load(tmp_path, rows, tokenizer, n_ctx=7).train
    assert cut.parts is not None
    assert cut.ids.tolist() == [2, 5, 5, 3, 6, 7, 3] and cut.parts.tolist() == [0] * 4 + [1] * 3
    rows = [{"text": "a b c d e", "label": i} for i in range(2)]
    [single, _] = load(tmp_path, rows, tokenizer, n_ctx=5).train
    assert single.ids.tolist() == [2, 5, 6, 7, 3]


def test_preferences(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("qwen2", template=None)
    [example] = load(tmp_path, [{"prompt": "a", "chosen": "b", "rejected": "c d"}], tokenizer).train
    assert example.rejected is not None
    assert shown(tokenizer, example) == "a[b<|im_end|>]"
    assert shown(tokenizer, example.rejected) == "a[c d<|im_end|>]"
    whole = load(tmp_path, [{"prompt": "a", "chosen": "b", "rejected": "c d"}], tokenizer, mask_prompt=False).train[0]
    assert whole.learn.tolist() == example.learn.tolist()


def test_preferred_conversations(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("qwen2")
    asked, good, bad = TALK[:4], TALK[4], {"role": "assistant", "content": "3"}
    rows = [
        {"chosen": [*asked, good], "rejected": [*asked, bad]},
        {"prompt": "Two?", "chosen": [*asked, good], "rejected": [*asked, bad]},
        {"prompt": asked, "chosen": [good], "rejected": [bad]},
    ]
    data = load(tmp_path, rows, tokenizer)
    for example in data.train:
        assert example.rejected is not None
        assert shown(tokenizer, example).endswith("\n1<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n"
                                                  "<|im_start|>assistant\n[2<|im_end|>]")  # fmt: skip
        assert shown(tokenizer, example.rejected).endswith("assistant\n[3<|im_end|>]")
        assert example.n_prompt == example.rejected.n_prompt


def test_digest_tells_other_data(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("qwen2")
    digests = {
        load(tmp_path, rows, tokenizer, **options).digest
        for rows, options in [
            ([{"text": "a b"}], {}),
            ([{"text": "a c"}], {}),
            ([{"text": "a b"}] * 2, {}),
            ([{"prompt": "a", "completion": "b"}], {}),
            ([{"prompt": "a", "completion": "b"}], {"mask_prompt": False}),
        ]
    }
    assert len(digests) == 5
    again = load(tmp_path, [{"text": "a b"}], tokenizer).digest
    assert again in digests


def test_formats_by_their_keys() -> None:
    for keys, kind in [
        (["text"], "text"), (["text", "meta"], "text"), (["prompt", "completion"], "completion"),
        (["messages", "prompt"], "chat"), (["prompt", "chosen", "rejected"], "preference"),
        (["text", "label"], "label"),
        (["sentence", "label", "idx"], "label"), (["question", "sentence", "label"], "pair"),
    ]:  # fmt: skip
        assert format_of(dict.fromkeys(keys)) == kind


@needs_shared
def test_smollm_learns_what_it_would_generate(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_metadata(metadata("smollm", SHARED))
    data = load(tmp_path, [{"messages": TALK[:3]}], tokenizer)
    asked = render_chat(tokenizer.chat_template, TALK[:2])
    prompt = tokenizer.encode(asked, add_bos=False, special=True)
    assert data.train[0].ids.tolist() == [*prompt, *tokenizer.encode("1"), tokenizer.eos_id]
    assert data.train[0].n_prompt == len(prompt)
