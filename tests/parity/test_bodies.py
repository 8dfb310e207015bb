"""Bodies of all kinds: read as transformers and sentence-transformers read them, or refused by name."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    ByT5Tokenizer,
    DPRConfig,
    DPRQuestionEncoder,
    FunnelTokenizer,
    GPT2Config,
    GPT2Model,
    PegasusConfig,
    T5Config,
    T5EncoderModel,
    T5Model,
    XLNetConfig,
    XLNetModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES, model_type_to_module_name
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from rankdistill.data.tokens import build_tokens
from rankdistill.errors import WrongModelError
from rankdistill.models.backbone import (
    OFFSET_FAMILIES,
    config_with_layers,
    first_position,
    load_tokenizer,
    load_weights,
    max_positions,
    resolve,
)
from rankdistill.models.cross_encoder import CrossEncoderModel
from rankdistill.models.dot import DotModel
from rankdistill.models.loading import load_model
from rankdistill.models.seq2seq import Seq2SeqModel
from rankdistill.retrieval.encode import encode_texts

TEXTS = ["sort a list", "a list of dictionaries sorted by value in descending order", "x", "y " * 90]
_T5: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 2,
    "initializer_factor": 5.0,
}


def save(model: Any, folder: Path, tokenizer: Any) -> Path:
    """A random model and a tokenizer in a plain folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_dir: Path) -> Any:
    """The tiny tokenizer."""
    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


def check(folder: Path) -> None:
    """Checks our vectors of texts together against theirs of each by itself, where no padding counts."""
    model = load_model(folder, device="cpu")
    assert isinstance(model, DotModel)
    model.doc_max_length = 64
    theirs = SentenceTransformer(str(folder), device="cpu")
    theirs.max_seq_length = 64
    alone = np.stack([theirs.encode(text) for text in TEXTS])
    np.testing.assert_allclose(encode_texts(model, TEXTS, kind="document", progress=False), alone, atol=1e-4)


@pytest.mark.parametrize("kind", [T5Model, T5EncoderModel])
def test_the_encoder_of_a_t5(tmp_path: Path, tokenizer: Any, kind: Any) -> None:
    torch.manual_seed(0)
    folder = save(kind(T5Config(vocab_size=len(tokenizer), **_T5)), tmp_path / "t5", tokenizer)
    check(folder)
    student = DotModel.from_pretrained(folder, device="cpu", num_layers=1, doc_max_length=700)
    assert student.doc_max_length == 700  # its positions are relative
    student.save_pretrained(tmp_path / "student")
    again = load_model(tmp_path / "student", device="cpu")
    assert again.fingerprint() == student.fingerprint()


def test_a_decoder_is_padded_on_the_right(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=2000, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5)
    inputs = ["input_ids", "attention_mask"]
    left = AutoTokenizer.from_pretrained(tiny_tokenizer_dir, padding_side="left", model_input_names=inputs)
    check(save(GPT2Model(config), tmp_path, left))


@pytest.mark.parametrize("family", sorted(OFFSET_FAMILIES))
def test_a_family_with_an_offset_reads_as_many_tokens_as_it_has_positions_for(family: str) -> None:
    more = {"attention_window": 4} if family == "longformer" else {}
    more |= {"entity_vocab_size": 10} if family == "luke" else {}
    more |= {"position_embedding_type": "absolute", "mask_token_id": 4} if family == "esm" else {}
    more |= {"languages": ["en_XX"], "default_language": "en_XX"} if family == "xmod" else {}
    more |= {"visual_embed": False, "coordinate_size": 4, "shape_size": 4} if family == "layoutlmv3" else {}
    config = AutoConfig.for_model(
        family,
        vocab_size=20,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=21,
        pad_token_id=1,
        **more,
    )
    body = AutoModel.from_config(config).eval()
    assert (first_position(config), max_positions(config)) == (2, 19)
    for length, fits in ((19, True), (20, False)):
        ids = torch.full((1, length), 7)
        if fits:
            assert body(input_ids=ids, attention_mask=torch.ones_like(ids))[0].shape[1] == length
        else:
            with pytest.raises((IndexError, RuntimeError)):
                body(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_no_family_with_an_offset_is_forgotten() -> None:
    models = Path(transformers.__file__).parent / "models"
    counts_from_padding = re.compile(r"padding_idx \+ 1|create_position_ids_from_input_ids")
    found = set()
    for family in CONFIG_MAPPING_NAMES.keys() & MODEL_MAPPING_NAMES.keys():
        modules = (models / model_type_to_module_name(family)).glob("modeling_*.py")
        found |= {family for module in modules if counts_from_padding.search(module.read_text(encoding="utf-8"))}
    # These read more than text.
    found -= {"altclip", "bridgetower", "clap", "data2vec-audio", "data2vec-vision", "evolla", "kosmos-2", "kosmos-2.5"}
    # The positions of these are computed, without a limit.
    found -= {"fsmt", "m2m_100", "nllb-moe", "seamless_m4t", "seamless_m4t_v2", "speech_to_text", "speecht5"}
    assert found == set(OFFSET_FAMILIES)


def test_bodies_that_are_no_encoders_of_text_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    dpr = save(DPRQuestionEncoder(DPRConfig(vocab_size=len(tokenizer), **shape)), tmp_path / "dpr", tokenizer)
    with pytest.raises(WrongModelError, match="found a DPR encoder, which gives one vector"):
        load_model(dpr, device="cpu")
    PegasusConfig(d_model=8).save_pretrained(tmp_path / "pegasus")
    with pytest.raises(WrongModelError, match="found an encoder-decoder of the family pegasus"):
        load_model(tmp_path / "pegasus", device="cpu")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "some/bert"}')
    with pytest.raises(WrongModelError, match=r"found an adapter of peft for some/bert; merge it"):
        load_model(adapter, device="cpu")


def test_a_tokenizer_whose_types_count_is_refused(tmp_path: Path, tiny_bert_dir: Path, tokenizer: Any) -> None:
    config = XLNetConfig(vocab_size=len(tokenizer), d_model=8, n_layer=1, n_head=1, d_inner=8)
    xlnet = save(XLNetModel(config), tmp_path / "xlnet", tokenizer)
    bert = shutil.copytree(tiny_bert_dir, tmp_path / "bert")
    words = {f"[unused{i}]": i for i in range(8)} | {"<unk>": 8, "<cls>": 9, "<sep>": 10, "<pad>": 11, "<mask>": 12}
    words |= {"a": 13, "<s>": 14, "</s>": 15}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    FunnelTokenizer(vocab=words, model_input_names=inputs).save_pretrained(bert)  # its <cls> has the type 2
    for folder, found in ((xlnet, "of a xlnet model"), (bert, "a FunnelTokenizer of a bert model")):
        with pytest.raises(WrongModelError, match=f"whose token types of a single text don't count, .*{found}"):
            load_model(folder, device="cpu")


def test_tokens_beyond_the_embeddings_are_refused_at_load(
    tmp_path: Path, tiny_bert_dir: Path, tiny_cross_encoder_dir: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert_dir)
    rows = len(tokenizer)
    tokenizer.add_tokens(["added"])
    for kind, source in ((DotModel, tiny_bert_dir), (CrossEncoderModel, tiny_cross_encoder_dir)):
        folder = shutil.copytree(source, tmp_path / kind.__name__)
        tokenizer.save_pretrained(folder)
        with pytest.raises(WrongModelError, match=f'below {rows:,}, .* found a tokenizer with the token "added"'):
            kind.from_pretrained(folder, device="cpu")
    with pytest.raises(WrongModelError, match='the token "added"'):
        Seq2SeqModel.from_pretrained(tmp_path / "DotModel", device="cpu", special_tokens=["<new>"])


def test_a_tokenizer_in_python_encodes_and_does_not_train(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = ByT5Tokenizer()
    folder = save(T5EncoderModel(T5Config(vocab_size=384, **_T5)), tmp_path / "byt5", tokenizer)
    check(folder)
    with pytest.raises(WrongModelError, match="found a ByT5Tokenizer, which runs in Python only"):
        load_tokenizer(folder)
    with pytest.raises(ValueError, match="which token stores need, found ByT5Tokenizer"):
        build_tokens([("1", "a")], tokenizer, 8, tmp_path / "tokens.rdtokens", fingerprint="x", progress=False)


def test_weights_in_a_pickle_are_read_as_tensors_alone(tmp_path: Path, tiny_bert_dir: Path) -> None:
    folder = shutil.copytree(tiny_bert_dir, tmp_path / "old")
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    assert load_model(folder, device="cpu").fingerprint() == load_model(tiny_bert_dir, device="cpu").fingerprint()

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "marker",))

    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        load_weights(AutoModel, str(folder), config_with_layers(str(folder), None))
    assert not (tmp_path / "marker").exists()


def test_pickled_weights_are_fetched_where_there_are_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(name: str, allow_patterns: Any = None, ignore_patterns: Any = None) -> str:
        chosen = filter_repo_objects(repo, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        for file in chosen:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).touch()
        return str(tmp_path / name)

    def fetched(name: str) -> set[str]:
        return {str(path.relative_to(resolve(name))) for path in Path(resolve(name)).rglob("*") if path.is_file()}

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    both = [
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "modeling_evil.py",
        "onnx/model.onnx",
        "tf_model.h5",
    ]
    dense = ["2_Dense/config.json", "2_Dense/pytorch_model.bin", "training_args.bin"]
    repo = [*both, *dense]
    assert fetched("a/b") == {"config.json", "model.safetensors", "2_Dense/config.json", "2_Dense/pytorch_model.bin"}
    repo = ["config.json", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"]
    assert fetched("c/d") == set(repo)
