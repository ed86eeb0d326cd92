"""Prompt-lookup speculation changes no token, log-probability, text or state: every test compares with a plain run.

The random models lean on the last token, so that greedy texts end in loops and sampled ones come back to old pairs:
drafts are made all the time, and both accepted and rejected; the tests assert that they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import lora_edge
import numpy as np
import pytest
from hypothesis import given, strategies as st
from lora_edge.generation import Completion, Run
from lora_edge.model import Model
from lora_edge.prompt_lookup import MAX_ROWS, NgramIndex, PromptLookup
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
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Eight tokens, each likely enough after any other."""
    rng = np.random.default_rng(5)
    shape = random_shape(rng, "llama", n_vocab=8, n_ctx=128, n_layer=1, tied=False)
    tensors = random_tensors(rng, shape)
    tensors["output.weight"] *= np.float32(0.3)
    with Model(write_model(tmp_path_factory.mktemp("small") / "base.gguf", shape, tensors), threads=1) as model:
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
    core = model._core
    left = 0  # drafts of three before the interrupt

    class Interrupted:
        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def forward(self, batch: Any, **options: Any) -> Any:
            nonlocal left
            core.forward(batch, **options)
            if len(batch[0][1]) == 4:  # a draft of three
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt

    prompt, hits = [1, 2, 3] * 6, 0
    wanted = model.complete(prompt, max_tokens=100, ignore_eos=True)
    for count in (1, 2, 3):
        left = count
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


# -- the distribution -----------------------------------------------------------------------------------------------

DRAWS = 2000


def all_pairs(n: int) -> list[int]:
    """A text in which each of the n² pairs of tokens stands once, and so is drafted from (de Bruijn)."""
    text, left = [0], {(a, b) for a in range(n) for b in range(n)}
    while left:
        best = max(b for b in range(n) if (text[-1], b) in left)
        left.remove((text[-1], best))
        text.append(best)
    return text


def pair_statistic(model: Model, **options: Any) -> tuple[float, int]:
    """Chi-square of the second and third token of unseeded runs, which drafts may have decided, with the model's own
    probabilities; and its degrees of freedom."""
    n = model.config.n_vocab
    start = all_pairs(n)

    def after(*more: int) -> np.ndarray:
        return np.exp(log_softmax(model.logits([*start, *more], last=1)[0]))

    first = after()
    expected = np.zeros((n, n))
    for t in range(n):
        second = after(t)
        for u in range(n):
            expected[u] += DRAWS * first[t] * second[u] * after(t, u)
    trunk = model.sequence()
    trunk.feed(start)
    seen = np.zeros((n, n))
    for _ in range(DRAWS):
        tokens = list(trunk.fork().generate(stream=True, max_tokens=4, temperature=1.0, **options))
        seen[tokens[1].id, tokens[2].id] += 1
    common = expected >= 5
    assert common.mean() > 0.5
    statistic = ((seen - expected)[common] ** 2 / expected[common]).sum()
    rest, rest_expected = seen[~common].sum(), expected[~common].sum()
    statistic += (rest - rest_expected) ** 2 / max(rest_expected, 1.0)
    return float(statistic), int(common.sum())


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64) - x.max()
    return np.asarray(x - np.log(np.exp(x).sum()))


def bound(freedom: int) -> float:
    return freedom + 5.5 * (2 * freedom) ** 0.5 + 10  # chi-square: mean f, variance 2 f


def test_unseeded_texts_follow_the_distribution(small: Model) -> None:
    statistic, freedom = pair_statistic(small, **SPECULATIVE)
    assert statistic <= bound(freedom)


@pytest.mark.parametrize("rule", ["second draw", "likely enough"])
def test_wrong_acceptance_rules_would_show(small: Model, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    """Two plausible mistakes: drawing afresh where the draft was rejected, and accepting what is likely enough."""

    class Wrong:
        def __init__(self, run: Run) -> None:
            self.run, self.right = run, run.sampler

        def accept(self, token: int) -> None:
            self.right.accept(token)

        def sample(self, core: Any, length: int) -> tuple[int, float]:
            ahead = self.run.sequence.ahead
            if ahead and rule == "likely enough":
                p = np.exp(log_softmax(small.logits(self.run.sequence.ids, last=1)[0]))
                if p[ahead[0]] > 0.5 / len(p):
                    return ahead[0], float(np.log(p[ahead[0]]))
            drawn = self.right.sample(core, length)
            return self.right.sample(core, length) if ahead and drawn[0] != ahead[0] else drawn

    start = Run.start.__func__  # type: ignore[attr-defined]

    def wrong_start(cls: type[Run], *args: Any) -> Run:
        run: Run = start(cls, *args)
        run.sampler = Wrong(run)  # type: ignore[assignment]
        return run

    monkeypatch.setattr(Run, "start", classmethod(wrong_start))
    statistic, freedom = pair_statistic(small, **SPECULATIVE)
    assert statistic > 1.5 * bound(freedom)


# -- drafts ---------------------------------------------------------------------------------------------------------


def brute_force(ids: list[int], n: int) -> list[int]:
    """The last earlier place where the longest of the text's ends of 4, 3, 2 tokens stands, and what follows it."""
    for size in (4, 3, 2):
        for at in range(len(ids) - 1, size - 1, -1):
            if len(ids) >= size and ids[at - size : at] == ids[-size:]:
                text = list(ids)
                for i in range(n):
                    text.append(text[at + i])
                return text[len(ids) :]
    return []


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 20), st.integers(0, 60))
def test_index_equals_a_search(ids: list[int], n: int, given_at_once: int) -> None:
    index = NgramIndex(ids[:given_at_once])
    for token in ids[given_at_once:]:
        index.push(token)
    assert index.lookup(n) == brute_force(ids, n)


def play(lookup: PromptLookup, text: list[int], most: int = MAX_ROWS - 1) -> tuple[int, list[int]]:
    """Drafts of a text that is known already: the passes it takes, and the length of each draft."""
    passes, lengths, at = 0, [], 0
    while at < len(text):
        draft = lookup.draft(most)
        lengths.append(len(draft))
        passes += 1
        for token in [*draft, None]:
            if at == len(text):
                break
            lookup.push(text[at], drafted=text[at] == token)
            at += 1
            if text[at - 1] != token:
                break
    return passes, lengths


def test_drafts_grow_with_success() -> None:
    text = list(range(100))
    passes, lengths = play(PromptLookup([*text, 200, 0, 1]), text[2:])
    assert lengths[:5] == [1, 3, 7, 15, 15] and passes == len(lengths) <= 9
    passes, lengths = play(PromptLookup([*text, 200, 0, 1]), text[2:], most=3)
    assert max(lengths) == 3


def test_drafts_pause_where_they_fail() -> None:
    """Each pair has been seen and each guess is wrong: a draft of one token, every 33 steps in the end."""
    rng = np.random.default_rng(0)
    lookup = PromptLookup(rng.integers(0, 5, 500).tolist())
    tried = []
    for _ in range(1000):
        draft = lookup.draft(15)
        tried.append(len(draft))
        lookup.push((draft[0] + 1) % 5 if draft else int(rng.integers(0, 5)), drafted=False)
    assert set(tried) == {0, 1}
    at = [i for i, n in enumerate(tried) if n]
    assert [b - a - 1 for a, b in pairwise(at)][:8] == [1, 2, 4, 8, 16, 32, 32, 32]
    assert lookup.accepted == 0 and lookup.drafted == len(at)


def test_a_copy_is_found_again_after_an_edit() -> None:
    """One token in twenty changed: most of the text still comes from drafts."""
    rng = np.random.default_rng(1)
    text = rng.integers(0, 30000, 400).tolist()
    edited = [t if i % 20 else 30000 + i for i, t in enumerate(text)]
    passes, _ = play(PromptLookup(text + text[:3]), edited[3:])
    assert passes < 0.5 * len(edited)


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
