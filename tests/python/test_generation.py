"""Sampling, stop strings, streams, batches, sequences and chat, on a random tiny model with a real kind of vocabulary.

Statistical tests have fixed seeds; their models don't, so what they compare with comes from the model's own logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lora_edge.generation import StopFilter
from lora_edge.model import Model
from tiny_models import fresh_rng, random_factors, random_shape, random_tensors, write_adapter, write_model
from tokenizer_cases import small_vocabulary

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module", params=["llama", "gpt-2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder, rng = tmp_path_factory.mktemp("model"), fresh_rng()
    vocabulary: dict[str, Any] = {**small_vocabulary(request.param), "tokenizer.chat_template": TEMPLATE}
    shape = random_shape(rng, "llama", n_vocab=len(vocabulary["tokenizer.ggml.tokens"]), n_ctx=400)
    tensors = random_tensors(rng, shape)
    tensors["token_embd.weight"] *= np.float32(0.4)  # flat enough that sampling has a choice
    if "output.weight" in tensors:
        tensors["output.weight"] *= np.float32(0.4)
    base = write_model(folder / "base.gguf", replace(shape, eps=1e-6), tensors, "f32", vocabulary)
    with Model(base, threads=1) as model:
        model.load_adapter(write_adapter(folder / "one.gguf", "llama", random_factors(rng, shape)))
        yield model


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x.astype(np.float64) - x.max())
    return np.asarray(e / e.sum())


PROMPT = "One day, the cat"


def test_greedy_is_the_argmax(model: Model) -> None:
    made = model.complete(PROMPT, max_tokens=30, ignore_eos=True)
    ids = model.tokenize(PROMPT)
    logits = model.logits(ids + made.ids)[len(ids) - 1 : -1]
    assert made.ids == logits.argmax(axis=1).tolist()
    wanted = [np.log(softmax(row)[i]) for row, i in zip(logits, made.ids, strict=True)]
    np.testing.assert_allclose(made.logprobs, wanted, atol=2e-5)
    np.testing.assert_allclose(model.score(ids + made.ids)[len(ids) - 1 :], made.logprobs, atol=1e-6)
    same: list[dict[str, Any]] = [
        {"top_k": 1, "temperature": 1.3},
        {"temperature": 1e-7},
        {"min_p": 1.0, "temperature": 1.0},
    ]
    for more in same:
        assert model.complete(PROMPT, max_tokens=30, ignore_eos=True, seed=5, **more).ids == made.ids
    assert made.timings.prompt_tokens == len(ids) and made.timings.generated_tokens == 30
    assert made.timings.prompt_seconds > 0 and made.timings.tokens_per_second > 0
    assert made.finish_reason == "length"


def test_seeds(model: Model) -> None:
    options: dict[str, Any] = {"max_tokens": 40, "temperature": 1.0, "ignore_eos": True}
    one = model.complete(PROMPT, seed=11, **options)
    assert model.complete(PROMPT, seed=11, **options).ids == one.ids
    assert model.complete(PROMPT, seed=12, **options).ids != one.ids
    assert model.complete(PROMPT, **options).ids != model.complete(PROMPT, **options).ids
    wanted = one.logprobs
    ids = model.tokenize(PROMPT)
    np.testing.assert_allclose(model.score(ids + one.ids)[len(ids) - 1 :], wanted, atol=1e-6)  # before temperature


def filtered(
    logits: np.ndarray, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> np.ndarray:
    """The distribution that the options describe: top-k, then top-p and min-p on the model's own probabilities, then
    temperature."""
    order = np.argsort(-logits, kind="stable")
    keep = order[:top_k] if top_k else order
    p = softmax(logits[keep])
    n = int(np.searchsorted(np.cumsum(p), top_p)) + 1 if top_p < 1 else len(keep)
    keep = keep[: max(1, n)]
    keep = keep[logits[keep] >= logits.max() + np.log(min_p)] if min_p else keep
    out = np.zeros(len(logits))
    out[keep] = softmax(logits[keep] / temperature)
    return out


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.6},
        {"temperature": 1.7, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.5},
        {"temperature": 2.0, "min_p": 0.2},
        {"temperature": 0.9, "top_k": 30, "top_p": 0.8, "min_p": 0.02},
    ],
    ids=str,
)
def test_samples_follow_the_distribution(model: Model, options: dict[str, Any]) -> None:
    draws = 4000
    wanted = filtered(model.logits(model.tokenize(PROMPT), last=1)[0], **options)
    trunk = model.sequence()
    trunk.feed(model.tokenize(PROMPT))
    counts = np.zeros(len(wanted))
    for seed in range(draws):
        token = next(trunk.fork().generate(stream=True, max_tokens=1, ignore_eos=True, seed=seed, **options))
        counts[token.id] += 1
    assert not counts[wanted == 0].any()
    expected = wanted * draws
    common = expected >= 5
    rest, rest_expected = counts[~common].sum(), expected[~common].sum()
    statistic = ((counts[common] - expected[common]) ** 2 / expected[common]).sum()
    statistic += (rest - rest_expected) ** 2 / rest_expected if rest_expected >= 1 else 0.0
    freedom = int(common.sum())
    assert statistic <= freedom + 5.5 * np.sqrt(2 * freedom) + 10  # chi-square: mean f, variance 2 f


def test_repeat_penalty(model: Model) -> None:
    """Ids seen within the last 64 tokens, prompt and own ones, have positive logits divided and negative multiplied."""
    ids = model.tokenize(PROMPT) * 12
    made = model.complete(ids, max_tokens=40, repeat_penalty=1.8, ignore_eos=True)
    logits = model.logits(ids + made.ids)
    text = list(ids)
    for token in made.ids:
        row = logits[len(text) - 1].copy()
        for seen in set(text[-64:]):
            row[seen] = row[seen] / np.float32(1.8) if row[seen] > 0 else row[seen] * np.float32(1.8)
        assert token == int(row.argmax())
        text.append(token)
    assert made.ids != model.complete(ids, max_tokens=40, ignore_eos=True).ids


@pytest.mark.parametrize("seed", range(12))
def test_streams_and_stops(model: Model, seed: int) -> None:
    """A stream says what the whole says, never half a character, and nothing of a stop string."""
    options: dict[str, Any] = {"max_tokens": 60, "temperature": 1.2, "seed": seed, "ignore_eos": True}
    whole = model.complete(PROMPT, **options)
    stream = list(model.generate(PROMPT, stream=True, **options))
    assert [t.id for t in stream] == whole.ids and [t.logprob for t in stream] == whole.logprobs
    assert "".join(t.text for t in stream) == whole.text == model.generate(PROMPT, **options)
    decoder = model.need_tokenizer().stream(continuation=True)
    assert whole.text == "".join(map(decoder.push, whole.ids)) + decoder.flush()

    rng = np.random.default_rng(seed)
    text = whole.text
    at = int(rng.integers(0, max(1, len(text) - 8)))
    stop = text[at : at + int(rng.integers(1, 8))]
    stops = [stop, "\x07 never there", stop + "more"]
    wanted = text[: text.find(stop)]
    stopped = model.complete(PROMPT, stop=stops, **options)
    assert stopped.text == wanted and stopped.finish_reason == "stop"
    parts = [t.text for t in model.generate(PROMPT, stream=True, stop=stops, **options)]
    assert "".join(parts) == wanted
    assert stopped.ids == whole.ids[: len(stopped.ids)]
    assert model.generate(PROMPT, stop=stop, **options) == wanted
    unseen = model.complete(PROMPT, stop=text[-3:] + "\x07", **options)  # held back to the end, then let go
    assert unseen.text == text and unseen.finish_reason == "length"


def test_stop_filter_equals_a_search_of_the_whole() -> None:
    rng = fresh_rng()
    for _ in range(2000):
        text = "".join(rng.choice(list("aab\n"), int(rng.integers(0, 30))))
        stops = tuple(
            "".join(rng.choice(list("aab\n"), int(rng.integers(1, 5)))) for _ in range(int(rng.integers(1, 4)))
        )
        stop_filter, out, at = StopFilter(stops), "", 0
        while at < len(text) and not stop_filter.stopped:
            n = int(rng.integers(1, 4))
            out += stop_filter.push(text[at : at + n])
            at += n
            assert not any(stop in out for stop in stops)
        if not stop_filter.stopped:
            out += stop_filter.flush()
        hits = [text.find(stop) for stop in stops if stop in text]
        if not hits:
            assert out == text and not stop_filter.stopped
        else:
            assert stop_filter.stopped and text.startswith(out) and not any(stop in out for stop in stops)


def test_end_tokens(model: Model) -> None:
    tokenizer = model.need_tokenizer()
    ends = tokenizer.stop_ids
    assert ends
    found = 0
    for seed in range(60):
        options: dict[str, Any] = {"max_tokens": 80, "temperature": 2.0, "seed": seed}
        free = model.complete(PROMPT, ignore_eos=True, **options)
        bound = model.complete(PROMPT, **options)
        at = next((i for i, token in enumerate(free.ids) if token in ends), None)
        if at is None:
            assert bound.ids == free.ids and bound.finish_reason == "length"
            continue
        found += 1
        assert bound.ids == free.ids[: at + 1] and len(bound.logprobs) == at + 1 and bound.finish_reason == "stop"
        sequence = model.sequence()
        sequence.generate(PROMPT, **options)
        assert sequence.ids == model.tokenize(PROMPT) + free.ids[:at]  # the end token is no part of the text
    assert found


def test_max_tokens(model: Model) -> None:
    nothing = model.complete(PROMPT, max_tokens=0)
    assert (nothing.text, nothing.ids, nothing.logprobs, nothing.finish_reason) == ("", [], [], "length")
    assert list(model.generate(PROMPT, max_tokens=0, stream=True)) == []
    assert len(model.complete(PROMPT, max_tokens=1, ignore_eos=True).ids) == 1
    full = model.complete(PROMPT, max_tokens=-1, ignore_eos=True, temperature=1.0, seed=1)
    assert len(full.ids) == model.n_ctx - len(model.tokenize(PROMPT)) and full.finish_reason == "length"


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": -2}, {"max_tokens": 1.5}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1},
        {"top_p": 0.0}, {"top_p": 1.5}, {"min_p": -0.1}, {"min_p": 2.0}, {"repeat_penalty": 0.0}, {"stop": ""},
        {"stop": ["x", ""]}, {"stop": 3}, {"temprature": 1.0}, {"adapter": "nobody"}, {"adapter": 3},
        {"top_k": 1 << 40}, {"top_k": 1.5}, {"top_p": None}, {"repeat_penalty": "1"}, {"seed": 1.7},
        {"max_tokens": True}, {"max_tokens": 1 << 40}, {"adapter": {"one": None}},
    ],
    ids=str,
)  # fmt: skip
def test_nonsense_is_refused_by_name(model: Model, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises((ValueError, TypeError), match=name):
        model.generate(PROMPT, **options)
    with pytest.raises((ValueError, TypeError), match=name):
        model.generate(PROMPT, stream=True, **options)  # at once, not at the first token


def test_numbers_of_numpy(model: Model) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "ignore_eos": True}
    wanted = model.generate(PROMPT, max_tokens=5, seed=3, top_k=4, **options)
    given = {"max_tokens": np.int64(5), "seed": np.uint64(3), "top_k": np.int32(4), "temperature": np.float32(1)}
    assert model.generate(PROMPT, **{**options, **given}) == wanted
    ids = np.array(model.tokenize(PROMPT), np.uint16)
    assert model.generate(ids, max_tokens=5, seed=3, top_k=4, **options) == wanted
    per_prompt = model.generate_batch([PROMPT] * 2, max_tokens=np.array([5, 0]), seed=3, top_k=4, **options)
    assert per_prompt == [wanted, ""]


@pytest.mark.parametrize("ids", [[1.5], b"ab", [1 << 40], [-1], ["a"], 7])
def test_what_is_no_list_of_ids(model: Model, ids: Any) -> None:
    sequence = model.sequence()
    for call in (model.generate, model.logits, model.score, sequence.feed, sequence.generate):
        with pytest.raises(ValueError, match="token id"):
            call(ids)
    with pytest.raises(ValueError, match="token id"):
        model.generate(ids, stream=True)
    with pytest.raises(ValueError, match="prompts must be a list"):
        model.generate_batch("abc")


def test_a_full_context_is_said(model: Model) -> None:
    """Where not one token fits, an empty text would look like an answer."""
    full = [5] * model.n_ctx
    for options in ({}, {"max_tokens": -1}, {"max_tokens": 1}):
        with pytest.raises(ValueError, match=f"has {model.n_ctx} tokens, all of the context of {model.n_ctx}"):
            model.generate(full, **options)
    assert model.generate(full, max_tokens=0) == ""
    assert len(model.complete(full[1:], ignore_eos=True).ids) == 1


def test_timings_count_what_was_decoded(model: Model) -> None:
    assert model.complete(PROMPT, max_tokens=1, ignore_eos=True).timings.tokens_per_second == 0
    timings = model.complete(PROMPT, max_tokens=9, ignore_eos=True).timings
    assert timings.tokens_per_second == pytest.approx(8 / timings.generated_seconds)


def test_text_goes_on_without_a_space_of_its_own(model: Model) -> None:
    sequence = model.sequence()
    sequence.feed(model.tokenize("Once upon a"))
    sequence.generate(" time", max_tokens=0)
    assert model.detokenize(sequence.ids) == "Once upon a time"
    sequence.generate("s", max_tokens=0)
    assert model.detokenize(sequence.ids) == "Once upon a times"
    bos = model.need_tokenizer().bos_id
    if bos is not None:
        sequence = model.sequence()
        sequence.feed([bos])
        sequence.generate("Once", max_tokens=0)
        assert sequence.ids == model.tokenize("Once", add_bos=True)


def test_batches_equal_single_runs(model: Model) -> None:
    prompts = [PROMPT, "A", "The dog ran home. " * 6, "Hello"]
    adapters = [None, "one", {"one": 0.5}, None]
    options: dict[str, Any] = {"temperature": 1.1, "ignore_eos": True}
    tokens, seeds = [30, 7, 45, 0], [1, 2, 3, 4]
    together = model.generate_batch(prompts, adapters=adapters, max_tokens=tokens, seed=seeds, **options)
    alone = [
        model.generate(p, adapter=a, max_tokens=n, seed=s, **options)
        for p, a, n, s in zip(prompts, adapters, tokens, seeds, strict=True)
    ]
    assert together == alone
    assert model.generate_batch([]) == []
    stops = [["e"], ["a", "o"], [], "t"]
    together = model.generate_batch(prompts, stop=stops, max_tokens=25, temperature=1.0, seed=9)
    alone = [
        model.generate(p, stop=s, max_tokens=25, temperature=1.0, seed=9) for p, s in zip(prompts, stops, strict=True)
    ]
    assert together == alone
    with pytest.raises(ValueError, match="3 values for 4 prompts"):
        model.generate_batch(prompts, max_tokens=[1, 2, 3])
    with pytest.raises(ValueError, match="one entry for each of the 4 prompts"):
        model.generate_batch(prompts, adapters=["one"])


def test_sequences_go_on(model: Model) -> None:
    """Two calls on one sequence are one call on a fresh one; it keeps what it computed."""
    sequence = model.sequence(adapter="one")
    options: dict[str, Any] = {"max_tokens": 12, "ignore_eos": True}
    first = sequence.generate(PROMPT, **options)
    ids = list(sequence.ids)
    assert ids == model.tokenize(PROMPT) + model.complete(PROMPT, adapter="one", **options).ids
    second = sequence.generate(**options)
    both = model.generate(PROMPT, adapter="one", max_tokens=24, ignore_eos=True)
    assert first + second == both or "\ufffd" in first + second  # a character may straddle the seam
    both_ids = model.complete(PROMPT, adapter="one", max_tokens=24, ignore_eos=True).ids
    assert sequence.ids == model.tokenize(PROMPT) + both_ids
    sequence.truncate(len(ids))
    assert sequence.generate(**options) == second
    branch = sequence.fork()
    branch.adapter = None
    made = branch.generate(" and then", **options)
    decoder = model.need_tokenizer().stream(continuation=True)
    assert made == "".join(map(decoder.push, branch.ids[-12:])) + decoder.flush()
    assert sequence.adapter == "one" and branch.adapter is None
    with pytest.raises(ValueError, match="empty"):
        model.sequence().generate()


def test_chat(model: Model) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]
    tokenizer = model.need_tokenizer()
    bos = tokenizer.token_text(tokenizer.bos_id) if tokenizer.bos_id is not None else ""
    text = f"{bos}[system] Be brief.\n[user] Who are you?\n[assistant]"
    ids = tokenizer.encode(text, add_bos=False if bos else None, special=True)
    assert model.apply_chat_template(messages) == ids
    assert tokenizer.bos_id is None or ids.count(tokenizer.bos_id) == 1  # the template's, and no second one
    options: dict[str, Any] = {"max_tokens": 20, "temperature": 1.0, "seed": 2}
    assert model.chat(messages, **options) == model.generate(ids, **options)
    streamed = model.chat(messages, adapter="one", stream=True, **options)
    assert "".join(t.text for t in streamed) == model.generate(ids, adapter="one", **options)


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    rng = fresh_rng()
    shape = random_shape(rng, "qwen3")
    with Model(write_model(tmp_path / "base.gguf", shape, random_tensors(rng, shape))) as model:
        made = model.complete([1, 2, 3], max_tokens=5)
        assert len(made.ids) == 5 and made.text == ""
        with pytest.raises(ValueError, match="tokenizer"):
            model.generate("text")
        with pytest.raises(ValueError, match="tokenizer"):
            model.chat([])
        with pytest.raises(ValueError, match="tokenizer"):
            model.generate([1], stop="x")
