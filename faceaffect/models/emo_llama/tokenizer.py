"""A small byte-level tokenizer, built from texts in code."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

_SPECIAL = ("<pad>", "<s>", "</s>")
_WORDS = r" ?AU\d+| ?-?\d+\.\d+| ?[A-Za-z]+| ?\d+| ?[^\sA-Za-z\d]+|\s+"
"""Merges stay inside these, so that an action unit or a decimal can become one token."""


def build_tokenizer(texts: Iterable[str], size: int = 1024) -> PreTrainedTokenizerFast:
    """Train a byte-pair tokenizer; any text has an encoding, words of the texts a short one.

    Args:
        texts: to learn merges from.
        size: most ids that it may have, at least 300.

    Returns:
        a tokenizer with pad, begin and end token that puts none of them in by itself.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, begin, end = _SPECIAL
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token=pad, bos_token=begin, eos_token=end
    )
