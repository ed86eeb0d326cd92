"""Prompt-lookup speculation changes no token, log-probability, text or state: every test compares with a plain run.

The random models lean on the last token, so that greedy texts end in loops and sampled ones come back to old pairs:
drafts are made all the time, and both accepted and rejected; the tests assert that they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lora_edge
import numpy as np
import pytest
from lora_edge.generation import Completion, Run
from lora_edge.model import Model
from lora_edge.prompt_lookup import PromptLookup
from tiny_models import fresh_rng, random_factors, random_shape, random_tensors, write_adapter, write_model
from tokenizer_cases import small_vocabulary

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
SPECULATIVE: dict[str, Any] = {"speculative": "prompt-lookup"}
SAMPLED: dict[str, Any] = {"temperature": 0.7, "top_k": 6}  # few choices: repeats, but not for ever


@pytest.fixture(scope="module", params=["f32", "q8_0"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder, rng = tmp_path_factory.mktemp("model"), fresh_rng()
    vocabulary = small_vocabulary("gpt-2")
    size = {"n_vocab": len(vocabulary["tokenizer.ggml.tokens"]), "n_ctx": 300, "n_layer": 2, "tied": False}
    shape = random_shape(rng, "llama", whole_blocks=True, **size)
    tensors = random_tensors(rng, shape)
    into_residual = [name for name in tensors if "attn_output.weight" in name or "ffn_down.weight" in name]
    for name in into_residual:
        tensors[name] *= np.float32(0.2)
    base = write_model(folder / "base.gguf", shape, tensors, request.param, vocabulary)
    with Model(base, threads=2) as model:
        factors = random_factors(rng, shape, [name for name in shape.linears if name not in into_residual])
        model.load_adapter(write_adapter(folder / "one.gguf", "llama", factors))
        yield model


@pytest.fixture(scope="module")
def home() -> Iterator[Model]:
    with lora_edge.load() as model:
        yield model


def same(plain: Completion, fast: Completion) -> Completion:
    assert fast.ids == plain.ids
    assert fast.logprobs == plain.logprobs  # to the bit
    assert (fast.text, fast.finish_reason) == (plain.text, plain.finish_reason)
    a, b = plain.timings, fast.timings
    assert (a.prompt_tokens, a.generated_tokens, a.drafted, a.accepted) == (b.prompt_tokens, b.generated_tokens, 0, 0)
    assert 0 <= b.accepted <= b.drafted and b.accepted < max(1, b.generated_tokens)
    return fast


def both(model: Model, prompt: Any, **options: Any) -> Completion:
    return same(model.complete(prompt, **options), model.complete(prompt, **options, **SPECULATIVE))


def prompts(model: Model, rng: np.random.Generator, n: int) -> list[list[int]]:
    """Random ids, half of them said twice."""
    parts = [rng.integers(0, model.config.n_vocab, int(rng.integers(1, 40))).tolist() for _ in range(n)]
    return [ids * (1 + i % 2) for i, ids in enumerate(parts)]


def counts(completions: list[Completion]) -> tuple[int, int]:
    return sum(c.timings.drafted for c in completions), sum(c.timings.accepted for c in completions)


# -- the same text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [None, "one"])
@pytest.mark.parametrize(
    "options",
    [{}, {**SAMPLED, "seed": 1}, {"temperature": 1.0, "top_p": 0.6, "repeat_penalty": 1.1, "seed": -5}],
    ids=["greedy", "sampled", "penalised"],
)
def test_random_models(model: Model, adapter: str | None, options: dict[str, Any]) -> None:
    made = [
        both(model, ids, adapter=adapter, max_tokens=70, ignore_eos=True, **options)
        for ids in prompts(model, fresh_rng(), 20)
    ]
    drafted, accepted = counts(made)
    assert drafted > 0
    if not options:
        assert 0.02 * sum(len(c.ids) for c in made) < accepted < drafted


@pytest.mark.slow
@pytest.mark.parametrize("view", [None, "json", "german"])
def test_builtin_model(home: Model, view: str | None) -> None:
    """200 requests, every other one after itself with its answer: greedy; some sampled, beyond the end."""
    samples = json.loads((FIXTURES / "builtin_heldout.json").read_text(encoding="utf-8"))[:200]
    assert len(samples) == 200
    made = []
    for i, sample in enumerate(samples):
        text = sample["text"] if i % 2 else f"{sample['text']}\n{sample['answers'][view or 'base']}\n{sample['text']}"
        made.append(both(home, text, adapter=view))
        if i % 10 < 2:
            more: dict[str, Any] = {"temperature": 1.1, "seed": i, "ignore_eos": True, "max_tokens": 40}
            made.append(both(home, text, adapter=view, **more))
    drafted, accepted = counts(made)
    assert 0 < accepted < drafted
    assert any(c.finish_reason == "stop" for c in made)


def test_batches(model: Model) -> None:
    """Runs with and without drafts, of many lengths, side by side; each is what it is alone."""
    rng = fresh_rng()
    for n in (2, 5, 12):  # 12: no room for drafts until some have ended
        texts = prompts(model, rng, n)
        options: dict[str, Any] = {
            "max_tokens": rng.integers(0, 50, n),
            "temperature": rng.choice([0.0, 0.7], n),
            "seed": list(range(n)),
            "stop": [["e"] if i % 3 == 0 else [] for i in range(n)],
        }
        adapters = [None if i % 2 else "one" for i in range(n)]
        mixed = [None if i % 4 == 3 else "prompt-lookup" for i in range(n)]
        plain = model.generate_batch(texts, adapters=adapters, top_k=6, **options)
        fast = model.generate_batch(texts, adapters=adapters, top_k=6, speculative=mixed, **options)
        assert fast == plain


def test_rows_of_a_pass(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass has MAX_ROWS rows at most, shared out; texts that don't fit get one each."""
    rows: list[int] = []
    core = model._core

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def forward(self, batch: Any, **options: Any) -> Any:
            rows.append(sum(len(ids) for _, ids, _ in batch))
            return core.forward(batch, **options)

    monkeypatch.setattr(model, "_core", Counting())
    for ids in prompts(model, fresh_rng(), 10):
        rows.clear()
        made = model.complete(ids, max_tokens=60, ignore_eos=True, **SPECULATIVE)
        t = made.timings
        assert len(rows) == 60 - t.accepted  # the prompt's, and one for each later token that no draft had
        assert sum(rows) == len(ids) + 59 - t.accepted + t.drafted
    monkeypatch.setattr(PromptLookup, "draft", lambda self, most: [5] * most)
    for n, most in ((1, 16), (3, 15), (8, 16), (9, 9), (20, 20)):
        rows.clear()
        model.generate_batch([[5, 6, 7]] * n, max_tokens=40, ignore_eos=True, **SPECULATIVE)
        assert max(rows[1:]) == most


def test_streams(model: Model) -> None:
    """One token at a time, with the sequence at each as it is without drafts."""
    for ids in prompts(model, fresh_rng(), 6):
        plain, fast = model.sequence(adapter="one"), model.sequence(adapter="one")
        options: dict[str, Any] = {"stream": True, "max_tokens": 60, "ignore_eos": True}
        for a, b in zip(plain.generate(ids, **options), fast.generate(ids, **options, **SPECULATIVE), strict=True):
            assert a == b and plain.ids == fast.ids
        assert_same_state(plain, fast)
        assert not fast.ahead and len(fast.core) <= len(fast.ids)  # no draft outlives the call


def test_the_end_of_the_context(model: Model) -> None:
    """A text that loops when it comes to the end, so that drafts would go beyond it."""
    made = []
    for ids in prompts(model, fresh_rng(), 3):
        ids = ids + model.complete(ids, max_tokens=-1, ignore_eos=True).ids
        assert len(ids) == model.n_ctx
        for left in (1, 2, 3, 9, 40):
            for most in (-1, left):
                made.append(both(model, ids[:-left], max_tokens=most, ignore_eos=True))
                assert len(made[-1].ids) == left
    assert counts(made)[1] > 0


def test_max_tokens(model: Model) -> None:
    ids = [1, 2, 3] * 6
    for n in range(24):
        assert len(both(model, ids, max_tokens=n, ignore_eos=True).ids) == n


def test_stop_strings_within_drafts(model: Model) -> None:
    """Stops cut at every place of a text; where a draft was cut, the rest of it leaves no trace."""
    within = 0
    for ids in prompts(model, fresh_rng(), 8):
        text = model.generate(ids, max_tokens=60, ignore_eos=True)
        for at in range(0, len(text) - 3, 5):
            made = both(model, ids, max_tokens=60, ignore_eos=True, stop=text[at : at + 3])
            assert made.finish_reason == "stop"
            plain, fast = model.sequence(), model.sequence()
            options: dict[str, Any] = {"max_tokens": 60, "ignore_eos": True, "stop": text[at : at + 3]}
            assert plain.generate(ids, **options) == fast.generate(ids, **options, **SPECULATIVE)
            assert_same_state(plain, fast)
            within += made.timings.accepted > 0
    assert within


def test_end_tokens_within_drafts(model: Model) -> None:
    """An end token that the prompt has after the same words: it is drafted, accepted, and ends the text."""
    ends = model.need_tokenizer().stop_ids
    end = min(ends)
    ended = 0
    for ids in prompts(model, fresh_rng(), 12):
        loop = model.complete(ids, max_tokens=40, ignore_eos=True).ids
        text = [*ids, *loop, end, *ids]
        for more in ({}, {"temperature": 3.0, "seed": 3}, {"temperature": 3.0, "seed": 4}):
            ended += both(model, text, max_tokens=80, **more).finish_reason == "stop"
    plain = model.sequence()
    for seed in range(40):
        options: dict[str, Any] = {"max_tokens": 100, "temperature": 2.0, "top_k": 50, "seed": seed}
        plain, fast = model.sequence(), model.sequence()
        assert plain.generate([1, 2], **options) == fast.generate([1, 2], **options, **SPECULATIVE)
        assert_same_state(plain, fast)


# -- the same state -------------------------------------------------------------------------------------------------


def assert_same_state(plain: lora_edge.Sequence, fast: lora_edge.Sequence) -> None:
    """Ids, logits, and keys and values, seen through the logits of what comes next."""
    assert fast.ids == plain.ids and len(fast.core) <= len(fast.ids) + len(fast.ahead)
    assert fast.fork().logits().tobytes() == plain.fork().logits().tobytes()
    if len(plain) + 3 <= plain.model.n_ctx:
        branches = plain.fork(), fast.fork()
        for branch in branches:
            branch.feed([3, 1, 2])
        assert branches[0].logits().tobytes() == branches[1].logits().tobytes()


def good_draft(run: Run, room: int) -> list[int]:
    """Up to five tokens that greedy decoding will make, but now and then the last is another one."""
    n = min(room, 5, run.limit - len(run.ids) - 1, run.sequence.model.n_ctx - len(run.sequence))
    if run.lookup is None or n < 1:
        return []
    fork = run.sequence.fork()
    fork.generate(max_tokens=n, ignore_eos=True)
    return [*fork.ids[-n:-1], fork.ids[-1] ^ (len(run.ids) % 2)]


def test_what_a_reader_does_between_tokens(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a draft: leaving, forking, cutting back, feeding, another adapter."""
    monkeypatch.setattr(Run, "draft", good_draft)
    rng = fresh_rng()
    within = 0
    for ids in prompts(model, rng, 20):
        plain, fast = model.sequence(), model.sequence()
        options: dict[str, Any] = {"stream": True, "max_tokens": 50, "ignore_eos": True}
        leave = int(rng.integers(5, 50))
        steps = zip(plain.generate(ids, **options), fast.generate(ids, **options, **SPECULATIVE), strict=True)
        for i, (a, b) in enumerate(steps):
            assert a == b and plain.ids == fast.ids
            if rng.random() < 0.2 and len(plain) > 3:
                ahead = len(fast.ahead)
                what = int(rng.integers(0, 5))
                for sequence in (plain, fast):
                    if what == 0:
                        assert_same_state(sequence.fork(), plain.fork())
                    elif what == 1:
                        sequence.truncate(len(sequence) - 2)
                    elif what == 2:
                        sequence.feed([4, 2])
                    elif what == 3:
                        sequence.adapter = None if sequence.adapter else {"one": 0.5}
                    else:
                        sequence.logits()
                within += ahead > 0
            if i == leave:
                break
        assert_same_state(plain, fast)
        again: dict[str, Any] = {"max_tokens": 10, "ignore_eos": True}
        assert plain.generate(**again) == fast.generate(**again, **SPECULATIVE)
        assert_same_state(plain, fast)
    assert within > 10


def test_an_interrupted_pass_leaves_the_sequence(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The core is done, with a draft, when Ctrl-C comes: the sequence is as before the pass."""
    core, rng = model._core, fresh_rng()
    left = 0  # drafts before the interrupt

    class Interrupted:
        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def forward(self, batch: Any, **options: Any) -> Any:
            nonlocal left
            drafted = len(batch[0][0]) >= len(prompt) and len(batch[0][1]) > 1
            core.forward(batch, **options)
            if drafted:
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt

    hits = 0
    for i, prompt in enumerate(prompts(model, rng, 60)):  # a text that never comes back to itself has no drafts
        wanted = model.complete(prompt, max_tokens=100, ignore_eos=True)
        left = 1 + i % 5
        sequence = model.sequence()
        monkeypatch.setattr(model, "_core", Interrupted())
        try:
            sequence.generate(prompt, max_tokens=100, ignore_eos=True, **SPECULATIVE)
        except KeyboardInterrupt:
            hits += 1
        monkeypatch.setattr(model, "_core", core)
        made = sequence.ids[len(prompt) :]
        assert made == wanted.ids[: len(made)]
        untouched = model.sequence()
        untouched.feed(sequence.ids)
        assert_same_state(untouched, sequence)
        if hits == 3:
            break
    assert hits


def test_kept_logits(model: Model) -> None:
    """The core keeps the logits of the last rows asked for; cutting back keeps what is left of them."""
    rng = fresh_rng()
    ids = [int(i) for i in rng.integers(0, model.config.n_vocab, 290)]
    wanted = model.logits(ids, adapter="one")
    for n, keep in ((5, 5), (30, 7), (290, 285)):  # more than a chunk of 256 rows
        sequence = model.sequence(adapter="one").core
        model.core.forward([(sequence, ids[:n], keep)])
        for length in range(n, n - keep, -1):
            sequence.truncate(length)
            assert sequence.ready and sequence.logits().tobytes() == wanted[length - 1].tobytes()
        sequence.truncate(n - keep)
        assert not sequence.ready
    sequence = model.sequence().core
    for keep in (0, 3, -1):
        with pytest.raises(ValueError, match=f"logits after {keep} of 2 new tokens"):
            model.core.forward([(sequence, [1, 2], keep)])
    assert len(sequence) == 0


# -- the option -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["lookup", "", 1, True, ["prompt-lookup"]], ids=repr)
def test_other_values_are_refused(model: Model, value: Any) -> None:
    for call in (model.generate, model.complete, model.sequence().generate):
        with pytest.raises(ValueError, match=r"speculative is .*None \(off\) or 'prompt-lookup'"):
            call([1, 2], speculative=value)


def test_every_front(model: Model, home: Model) -> None:
    text = "turn on the kitchen light"
    assert lora_edge.generate(text, adapter="json", **SPECULATIVE) == home.generate(text, adapter="json")
    turns = [{"role": "user", "content": text}]
    assert home.chat(turns, **SPECULATIVE) == home.chat(turns)
    streamed = lora_edge.generate(text, stream=True, **SPECULATIVE)
    assert "".join(t.text for t in streamed) == home.generate(text)
