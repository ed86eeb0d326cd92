"""Folders with a SentencePiece model and no tokenizer.json: our ids against the sentencepiece library's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from conftest import SHARED, needs_shared
from lora_edge.convert import convert_model, export_model
from lora_edge.gguf_file import open_gguf
from lora_edge.tokenizer import Tokenizer
from peer_models import fresh_rng, random_model

BASIC: dict[str, Any] = {
    "vocab_size": 600, "model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False, "character_coverage": 0.999, "minloglevel": 2,
}  # fmt: skip


def trained(folder: Path, **changes: Any) -> Any:
    text = (SHARED / "datasets" / "tinyshakespeare_first_90.txt").read_text("utf-8")[:100_000]
    (folder / "corpus.txt").write_text(text)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "tokenizer"), **{**BASIC, **changes}
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@needs_shared
@pytest.mark.parametrize(("prefix", "symbols"), [(True, []), (False, []), (False, ["<|user|>", "\u2581\u2581", "ing"])])
def test_ids(tmp_path: Path, prefix: bool, symbols: list[str]) -> None:
    rng = fresh_rng()
    theirs = trained(tmp_path, add_dummy_prefix=prefix, user_defined_symbols=symbols)
    random_model("Llama", rng, vocab_size=603).save_pretrained(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|extra|>": 600}))
    file = convert_model(tmp_path, tmp_path / "out.gguf", type="f16")
    meta = open_gguf(file).metadata
    ours = Tokenizer.from_metadata(meta)
    assert meta["tokenizer.ggml.tokens"][600:] == ["<|extra|>", "[PAD601]", "[PAD602]"]
    assert (ours.bos_id, ours.eos_id, ours.add_bos, ours.add_eos) == (1, 2, True, False)
    back = transformers.AutoTokenizer.from_pretrained(export_model(file, tmp_path / "back"))
    text = (SHARED / "datasets" / "tinyshakespeare_first_90.txt").read_text("utf-8")[200_000:]
    for _ in range(50):
        start = int(rng.integers(len(text) - 300))
        piece = text[start : start + int(rng.integers(1, 300))] + str(
            rng.choice(["", "  é日", "   x", "\t\n", "singing"])
        )
        wanted = theirs.encode(piece)
        assert ours.encode(piece, add_bos=False) == wanted, piece
        if not symbols:
            assert back(piece, add_special_tokens=False).input_ids == wanted, piece
    assert ours.encode("a<|extra|>")[-1] == 600


@needs_shared
@pytest.mark.parametrize(
    ("changes", "message"),
    [({"model_type": "unigram"}, "no BPE"), ({"normalization_rule_name": "nmt_nfkc"}, "normalises"),
     ({"remove_extra_whitespaces": True}, "normalises"), ({"user_defined_symbols": ["ing"]}, "user-defined")],
)  # fmt: skip
def test_what_scores_cannot_say(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    trained(tmp_path, **changes)
    random_model("Llama", fresh_rng(), vocab_size=600).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"tokenizer\.model.*{message}"):
        convert_model(tmp_path, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
