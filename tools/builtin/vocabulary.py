"""The vocabulary: byte-level BPE (the pre-tokenizer "gpt-2"), trained on the domain."""

from __future__ import annotations

import random
from collections.abc import Iterator

from domain.notes import note
from domain.samples import draw_from
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS = "<|home|>", "<|end|>"
# A request is understood by itself: the last one is what counts, as generate() would get it.
CHAT_TEMPLATE = (
    "{% set asked = messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list %}"
    "{% if not asked %}{{ raise_exception('there is no message of a user') }}{% endif %}"
    "{{ '<|home|>' + asked[-1] | trim + '\n' }}"
)


def _texts(n: int, rng: random.Random) -> Iterator[str]:
    for _ in range(n // 50):  # often enough that each number of two digits is a token, alone and after a space
        yield from (f"{number:02d} {number:02d}" for number in range(100))
    for _ in range(n):
        sample = draw_from(lambda s: s.split == "train", rng)
        yield sample.text
        yield from sample.answers.values()
        if rng.random() < 0.25:
            yield note(rng)


def train_vocabulary(size: int, seed: int, n: int = 20000) -> PreTrainedTokenizerFast:
    """A tokenizer of `size` tokens, trained on `n` samples with all their answers."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[BOS, EOS],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(_texts(n, random.Random(seed)), trainer)
    bpe.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, bpe.token_to_id(BOS))])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
