"""`score` and `encode`, killed with SIGKILL and started again, write what an uninterrupted run writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rankdistill.cli import main
from rankdistill.formats.collection import open_collection
from rankdistill.formats.triples import Triple, write_triples

# The command, slow enough to be killed in the midst: each chunk or shard waits before its work.
SLOW = """
import sys, time
from rankdistill.cli import main
from rankdistill.retrieval import encode, score
def slowly(function):
    def wait(*arguments, **more):
        time.sleep(0.3)
        return function(*arguments, **more)
    return wait
score.score_pairs, encode.encode_texts = slowly(score.score_pairs), slowly(encode.encode_texts)
main(sys.argv[1:])
"""


def run(arguments: list[str]) -> None:
    """Runs the command to its end."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0


def killed(arguments: list[str], done_some: Callable[[], bool]) -> None:
    """Runs the command, and kills it once some of its work is done."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", SLOW, *arguments], env=environment, stderr=subprocess.DEVNULL)
    while not done_some():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    process.kill()
    process.wait()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_killed_score_goes_on_and_writes_the_same_file(
    tmp_path: Path, conala: Path, tiny_cross_encoder_dir: Path
) -> None:
    collection = open_collection(conala)
    docs, queries = list(collection.doc_ids), list(collection.query_ids)
    write_triples(tmp_path / "t.tsv", [Triple(queries[i], docs[2 * i], docs[2 * i + 1]) for i in range(60)])
    command = ["score", "--teacher", str(tiny_cross_encoder_dir), "--collection", str(conala), "--device", "cpu"]
    command += ["--triples", str(tmp_path / "t.tsv"), "--chunk-pairs", "8"]
    run([*command, "--output", str(tmp_path / "whole.tsv")])
    again = tmp_path / "again.tsv"
    partial = tmp_path / "again.tsv.partial" / "scores.f32"
    killed([*command, "--output", str(again)], lambda: partial.is_file() and partial.stat().st_size >= 4 * 3 * 8)
    assert not again.exists()
    assert partial.stat().st_size < 4 * 120
    run([*command, "--output", str(again)])
    assert again.read_bytes() == (tmp_path / "whole.tsv").read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_killed_encode_goes_on_and_writes_the_same_vectors(
    tmp_path: Path, conala: Path, tiny_sentence_transformer_dir: Path
) -> None:
    command = ["encode", "--model", str(tiny_sentence_transformer_dir), "--collection", str(conala), "--device", "cpu"]
    command += ["--shard-size", "200", "--dtype", "float32"]
    run([*command, "--output", str(tmp_path / "whole")])
    again = tmp_path / "again"
    manifest = again / "manifest.json"

    def num_shards() -> int:
        return len(json.loads(manifest.read_text())["shards"]) if manifest.is_file() else 0

    killed([*command, "--output", str(again)], lambda: num_shards() >= 2)
    assert 2 <= num_shards() < 14
    run([*command, "--output", str(again)])
    whole, resumed = (np.load(folder / "vectors.npy") for folder in (tmp_path / "whole", again))
    np.testing.assert_array_equal(resumed, whole)
