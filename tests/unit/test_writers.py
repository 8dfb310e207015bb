"""What writers do to files that aren't theirs, to private sources, to a second writer, and when they are killed."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from rankdistill._core import TokenWriter
from rankdistill.data.scores import compile_scores
from rankdistill.data.scores_merge import merge_scores
from rankdistill.errors import BadStoreError, InUseError
from rankdistill.formats import writing
from rankdistill.formats.collection import collection_from_texts
from rankdistill.formats.scores import write_scores
from rankdistill.formats.triples import Triple, write_triples
from rankdistill.formats.writing import locked, replacing_folder
from rankdistill.models.loading import load_model
from rankdistill.options.scoring import ScoreOptions
from rankdistill.retrieval.encode import encode_collection
from rankdistill.retrieval.flat import FlatIndex
from rankdistill.retrieval.score import score_file


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def score_options(out: Path, conala: Path, teacher: Path) -> ScoreOptions:
    triples = out.parent / "triples.tsv"
    write_triples(triples, [Triple("train0", "s1", "s2"), Triple("train1", "s3", "s4")])
    return ScoreOptions(teacher=str(teacher), collection=str(conala), output=out, triples=triples, device="cpu")


def test_stores_and_score_files_are_as_private_as_their_sources(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        for name in ("private", "public"):
            source = tmp_path / f"{name}.tsv"
            source.write_text("2.0\t1.0\tq\td1\td2\n")
            source.chmod(0o600 if name == "private" else 0o644)
        private, public = tmp_path / "private.tsv", tmp_path / "public.tsv"
        compile_scores(private, tmp_path / "a.rdscores", progress=False)
        compile_scores(public, tmp_path / "b.rdscores", progress=False)
        merge_scores([public, private], tmp_path / "merged.tsv", progress=False)
        write_scores(tmp_path / "c.tsv", [("q", [("d1", 1.0), ("d2", 0.0)])])
        modes = {name: mode_of(tmp_path / name) for name in ("a.rdscores", "b.rdscores", "merged.tsv", "c.tsv")}
        assert modes == {"a.rdscores": 0o600, "b.rdscores": 0o644, "merged.tsv": 0o600, "c.tsv": 0o644}
    finally:
        os.umask(old)
    assert not list(tmp_path.glob(".*"))


def test_files_of_a_users_with_names_like_ours_survive(
    tmp_path: Path, conala: Path, tiny_cross_encoder_dir: Path
) -> None:
    own = [tmp_path / name for name in ("t.tsv.tmp", f".t.tsv.{os.getpid()}.tmp", "index.tmp", "t.tsv.partial")]
    for path in own:
        path.write_text("precious")
    write_triples(tmp_path / "t.tsv", [Triple("q", "a", "b")])
    write_scores(tmp_path / "t.tsv", [("q", [("d1", 1.0), ("d2", 0.0)])])
    FlatIndex.build(np.eye(2), ["a", "b"]).save(tmp_path / "index")
    assert [path.read_text() for path in own] == ["precious"] * 4
    folder = tmp_path / "scores.tsv.partial"
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(BadStoreError, match="expected what an interrupted `score` left, or nothing, found other files"):
        score_file(score_options(tmp_path / "scores.tsv", conala, tiny_cross_encoder_dir))
    assert (folder / "thesis.txt").read_text() == "precious"


def test_an_index_replaces_nothing_but_an_index(tmp_path: Path) -> None:
    index = FlatIndex.build(np.eye(2), ["a", "b"])
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "ids.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"expected an index of ours, .* found ids.txt"):
        index.save(folder)
    assert (folder / "ids.txt").read_text() == "precious"
    (folder / "ids.txt").rename(folder / "notes.txt")
    index.save(folder)
    FlatIndex.build(np.eye(3), ["a", "b", "c"]).save(folder)
    assert len(FlatIndex.load(folder)) == 3
    assert (folder / "notes.txt").read_text() == "precious"


def test_a_token_store_takes_no_file_that_no_build_left(tmp_path: Path) -> None:
    def build() -> None:
        writer = TokenWriter(
            tmp_path / "x",
            tokenizer_fingerprint="0" * 32,
            source_fingerprint="1" * 32,
            max_length=8,
            num_prefix=1,
            num_suffix=1,
            width=2,
        )
        writer.push(np.array([1, 2], np.uint32), np.array([2], np.uint32))
        writer.finish()

    for name in ("x.partial", "x.journal"):
        (tmp_path / name).write_text("precious and longer than a magic")
        with pytest.raises(ValueError, match=rf"{name}: expected what an interrupted build left, or nothing"):
            build()
        assert (tmp_path / name).read_text() == "precious and longer than a magic"
        (tmp_path / name).unlink()
        (tmp_path / "x.journal").unlink(missing_ok=True)
    victim = tmp_path / "victim"
    victim.write_text("")
    (tmp_path / "x.partial").symlink_to(victim)
    with pytest.raises(OSError, match=r"x.partial"):
        build()
    assert victim.read_text() == ""
    (tmp_path / "x.partial").unlink()
    build()
    assert {path.name for path in tmp_path.iterdir()} == {"victim", "x"}


def test_a_folder_to_encode_into_keeps_foreign_files(tmp_path: Path, tiny_sentence_transformer_dir: Path) -> None:
    model = load_model(tiny_sentence_transformer_dir, device="cpu")
    texts = collection_from_texts({"a": "one", "b": "two"}, {})
    folder = tmp_path / "vectors"
    folder.mkdir()
    (folder / "vectors.npy").write_text("precious")
    with pytest.raises(BadStoreError, match=r"none of our files without manifest.json, found vectors.npy"):
        encode_collection(model, texts, folder, progress=False)
    assert (folder / "vectors.npy").read_text() == "precious"
    (folder / "vectors.npy").unlink()
    encode_collection(model, texts, folder, progress=False)
    (folder / "ids.txt").unlink()  # as a kill left it that came between the manifest and the ids
    encode_collection(model, texts, folder, progress=False)
    assert (folder / "ids.txt").read_text() == "a\nb\n"


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("call", range(1, 12))
def test_score_with_a_dense_teacher_goes_on_after_a_kill_at_any_rename(
    tmp_path: Path, conala: Path, tiny_sentence_transformer_dir: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    options = score_options(tmp_path / "scores.tsv", conala, tiny_sentence_transformer_dir)
    calls = 0

    def dies(function: object) -> object:
        def wrapper(*arguments: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            if calls >= call:
                raise Killed
            return function(*arguments, **more)  # type: ignore[operator]

        return wrapper

    with monkeypatch.context() as patch:
        for name in ("replace", "rename"):
            patch.setattr(os, name, dies(getattr(os, name)))
        patch.setattr(writing.shutil, "rmtree", dies(writing.shutil.rmtree))
        with suppress(Killed):
            score_file(options)
    assert score_file(options)["rows"] == 2
    assert len((tmp_path / "scores.tsv").read_text().splitlines()) == 2
    assert not (tmp_path / "scores.tsv.partial").exists()


def test_a_second_score_of_one_output_is_refused(
    tmp_path: Path, conala: Path, tiny_cross_encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = score_options(tmp_path / "scores.tsv", conala, tiny_cross_encoder_dir)
    with locked(options.output):
        monkeypatch.setattr(writing.threading, "get_ident", lambda: -1)  # as another thread
        with pytest.raises(InUseError, match=f"expected no other writer, found process {os.getpid()} on"):
            score_file(options)
    assert not options.output.exists()


def test_a_half_written_model_has_no_name(tmp_path: Path, tiny_cross_encoder_dir: Path) -> None:
    model = load_model(tiny_cross_encoder_dir, device="cpu")

    def stops(*_: object, **__: object) -> None:
        raise Killed

    model.tokenizer.save_pretrained = stops
    with pytest.raises(Killed):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with replacing_folder(tmp_path / "model", last="config.json") as folder:
        (folder / "config.json").write_text(json.dumps({}))
    with pytest.raises(Killed):
        model.save_pretrained(tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"], "the model that was there stays"
