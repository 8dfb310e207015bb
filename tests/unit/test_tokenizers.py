"""Tokenizers without shared state: the ids of transformers' own calls, alone and while other threads use the same tokenizer."""

from __future__ import annotations

import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rankdistill.formats.tokenizers import encode_pairs, encode_texts, plain_copy
from rankdistill.generation.decoding import generate_entities
from rankdistill.generation.disambiguation import _cut_off
from rankdistill.generation.trie import TokenTrie
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel
from tests.reference.decoding import tiny_model

TEXTS = [
    "sort a list",
    "x = y[::-1] # a <extra_0> b",
    "",
    "tail" * 9,
    " é Ü  <mask> <mask>",
    "Sort a LIST of lists " * 3,
]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


def byte_level() -> Any:
    """As RoBERTa's: merges that are kept in a cache, a mask that takes the space before it, a token beyond the vocabulary."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "so", "rt", "sort"]
    backend = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [("s", "o"), ("r", "t"), ("so", "rt")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    found = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", truncation_side="left",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )  # fmt: skip
    found.add_tokens(["list"])
    return found


def unigram() -> Any:
    """As T5's: sentinels beyond the vocabulary, a metaspace, a limit of its own and token types that aren't read."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("\u2581", -3.0), ("\u2581so", -2.0), ("rt", -2.0)]
    pieces += [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=12,
        extra_special_tokens=[f"<extra_{i}>" for i in range(3)], model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["word pieces", "byte level", "unigram"])
def test_ids_are_those_of_the_tokenizer(kind: str, tokenizer: Any) -> None:
    named = {"word pieces": lambda: tokenizer, "byte level": byte_level, "unigram": unigram}[kind]()
    plain = plain_copy(named)
    named(TEXTS, truncation=True, max_length=5, padding=True)
    for max_length in (5, 6, 7, 11, 500, None):
        wanted = named(TEXTS, truncation=True, max_length=max_length)["input_ids"]
        named(TEXTS, truncation=True, max_length=9, padding=True)
        assert encode_texts(named, TEXTS, max_length) == wanted
        firsts, seconds = zip(*itertools.product(TEXTS, TEXTS), strict=True)
        pairs = named(list(firsts), list(seconds), truncation="longest_first", max_length=max_length)
        found = encode_pairs(named, firsts, seconds, max_length)
        assert found == {name: pairs[name] for name in ("input_ids", "token_type_ids") if name in pairs}
    assert [encoding.ids for encoding in plain.encode_batch(TEXTS)] == named(TEXTS)["input_ids"]
    assert encode_texts(named, []) == []
    assert encode_pairs(named, [], []) == {"input_ids": []}
    with pytest.raises(ValueError, match="shorter"):
        encode_pairs(named, ["a", "b"], ["c"])


def test_special_tokens_of_a_text_are_split_where_the_tokenizer_says_so(tokenizer: Any) -> None:
    from transformers import AutoTokenizer

    split = AutoTokenizer.from_pretrained(tokenizer.name_or_path, split_special_tokens=True)
    wanted = split(["a [SEP] b"], truncation=True, max_length=30)["input_ids"]
    assert encode_texts(split, ["a [SEP] b"], 30) == wanted != encode_texts(tokenizer, ["a [SEP] b"], 30)


def test_threads_that_share_a_tokenizer_cut_at_their_own_lengths(
    tokenizer: Any, tiny_bert_dir: Path, tiny_cross_encoder_dir: Path
) -> None:
    cross_encoder = CrossEncoderModel.from_pretrained(tiny_cross_encoder_dir, device="cpu", max_length=40)
    dot = DotModel.from_pretrained(tiny_bert_dir, device="cpu", query_max_length=7, doc_max_length=90)
    writer = tiny_model("bert", vocab_size=len(tokenizer))
    trie = TokenTrie.from_titles(["sort a list", "sort a dict"], tokenizer, progress=False)
    cross_encoder.tokenizer = dot.tokenizer = tokenizer
    texts = [f"{word} a list of lists " * 12 for word in ("sort", "reverse", "copy", "find")]

    def generated() -> Any:  # by one thread: no other may use the model meanwhile
        return [[own.entity_id for own in row] for row in generate_entities(
            writer, tokenizer, trie, texts, num_beams=2, max_input_length=20
        )]  # fmt: skip

    jobs: list[Any] = [
        lambda: cross_encoder.tokenize_pairs(texts, texts[::-1]),
        lambda: dot.tokenize(texts, "query"),
        lambda: dot.tokenize(texts, "document"),
        lambda: encode_texts(tokenizer, texts, 13),
        lambda: _cut_off(texts, tokenizer, 3),
        lambda: trie.ids_of_titles(["sort a list"], tokenizer).ids.tolist(),
        # Someone else's calls, which set the shared state.
        lambda: bool(tokenizer(texts, truncation=True, max_length=5, padding=True)),
    ]
    wanted = [job() for job in jobs]
    generated_alone = generated()
    order = [at for at in range(len(jobs)) for _ in range(60)]
    random.Random(0).shuffle(order)
    with ThreadPoolExecutor(8) as pool:
        written = pool.submit(generated)
        found = list(pool.map(lambda at: jobs[at](), order))
    assert found == [wanted[at] for at in order]
    assert written.result() == generated_alone
