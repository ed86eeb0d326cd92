"""Classes by scored labels: the best of the tree is the best of all."""

from __future__ import annotations

from pathlib import Path

import lora_edge
import numpy as np
import pytest
from lora_edge.encoder_tokenizer import Encoded
from lora_edge.train.classify import predict
from lora_edge.train.data import Example, Labels
from tiny_encoder import tiny_encoder
from tiny_models import fresh_rng, random_factors, random_shape, random_tensors, write_adapter, write_model


@pytest.mark.parametrize("prefixes", [False, True])
def test_likeliest_of_all_answers(tmp_path: Path, prefixes: bool) -> None:
    rng = fresh_rng()
    shape = random_shape(rng, "llama")
    write_model(tmp_path / "model.gguf", shape, random_tensors(rng, shape), "f32")
    adapter = write_adapter(tmp_path / "adapter.gguf", "llama", random_factors(rng, shape, r=2))
    with lora_edge.Model(tmp_path / "model.gguf", threads=1) as model:
        model.load_adapter(adapter, name="adapter")
        answers = {tuple(rng.integers(3, 8, int(rng.integers(1, 5))).tolist()) for _ in range(30)}
        if not prefixes:  # with an end token no answer begins another
            answers = {(*answer, 2) for answer in answers}
        arrays = tuple(np.array(answer, np.int32) for answer in sorted(answers))
        labels = Labels(tuple(str(i) for i in range(len(arrays))), arrays)
        examples = []
        for line in range(8):
            n = int(rng.integers(1, 9))
            ids = rng.integers(0, shape.n_vocab, n + 1).astype(np.int32)
            examples.append(Example(ids, np.arange(n + 1) == n, line, n, 0))
        for spec in (None, "adapter"):
            found = predict(model, examples, labels, adapter=spec)
            for example, label in zip(examples, found):
                scores = [
                    model.score(c.ids.tolist(), adapter=spec)[c.n_prompt - 1 :].astype(np.float64).sum()
                    for c in labels.candidates(example)
                ]
                assert scores[label] == pytest.approx(max(scores), abs=1e-4)


def test_by_a_head(tmp_path: Path) -> None:
    """Of an encoder, with the parts of pairs; other models have none."""
    rng = fresh_rng()
    (tmp_path / "encoder.gguf").write_bytes(tiny_encoder().raw)
    labels = Labels(("x", "y", "z"))
    with lora_edge.Model(tmp_path / "encoder.gguf", threads=1) as model:
        examples, pairs = [], []
        for line in range(40):
            ids = rng.integers(5, 10, int(rng.integers(3, 12)))
            parts = (np.arange(len(ids)) > len(ids) // 2).astype(np.int32)
            examples.append(Example(ids.astype(np.int32), np.zeros(len(ids), np.bool_), line, 0, 0, parts))
            pairs.append(Encoded(ids.tolist(), parts.tolist()))
        found = predict(model, examples, labels)
        assert [labels.names[i] for i in found] == [c.label for c in model.classify(pairs)]
        alone = model.classify([examples[0].ids.tolist(), pairs[0]])
        assert not np.array_equal(alone[0].logits, alone[1].logits)
    shape = random_shape(rng, "llama")
    write_model(tmp_path / "model.gguf", shape, random_tensors(rng, shape), "f32")
    with lora_edge.Model(tmp_path / "model.gguf", threads=1) as model, pytest.raises(ValueError, match="no classifier"):
        predict(model, examples, labels)
