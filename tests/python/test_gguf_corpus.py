"""The fuzzer's seed corpus: each file is read, or refused in one line (tools/make_fuzz_corpus.py writes it)."""

from __future__ import annotations

from pathlib import Path

import pytest
from lora_edge import _core
from lora_edge.gguf_file import open_gguf
from lora_edge.model import Model

CORPUS = Path(__file__).resolve().parents[1] / "fixtures/gguf_corpus"
GOOD = sorted(CORPUS.glob("ok_*.gguf"))
BAD = sorted(CORPUS.glob("bad_*.gguf"))


def test_the_corpus_is_there() -> None:
    assert len(GOOD) >= 18 and len(BAD) >= 24


@pytest.mark.parametrize("path", GOOD, ids=lambda p: p.stem)
def test_good_file(path: Path) -> None:
    file = open_gguf(path)
    assert sum(len(str(value)) for value in file.metadata.values()) or "q4_0" in path.stem
    core = _core.GgufFile(str(path))
    for name, (shape, _, n_bytes) in core.tensors().items():
        array = core.tensor(name)
        assert array.nbytes == n_bytes and array.shape[:-1] == shape[:-1]
        assert not array.flags.writeable
    if f"{file.metadata.get('general.architecture')}.block_count" in file.metadata:
        model = Model(path, threads=1)
        if path.stem == "ok_nan_weights":
            with pytest.raises(ValueError, match="logits hold NaN or infinity"):
                model.complete("ab", max_tokens=3)
        else:
            assert len(model.complete("ab", max_tokens=3, ignore_eos=True).ids) == 3


@pytest.mark.parametrize("path", BAD, ids=lambda p: p.stem)
def test_bad_file(path: Path) -> None:
    with pytest.raises(ValueError) as error:
        _core.GgufFile(str(path))
    text = str(error.value)
    assert type(error.value) is ValueError
    assert text.startswith(f"[gguf] '{path}': ") and "\n" not in text
    assert len(text) < 250 + len(str(path))
