"""Which rows each step has: the sampler that the options ask for."""

from __future__ import annotations

import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray

from rankdistill.data.batches import Plan, row_blocks
from rankdistill.data.tas import TASPlan, TASRows, read_clusters
from rankdistill.data.tokens import TokenStore
from rankdistill.formats.cache import cache_folder, fingerprint_of
from rankdistill.formats.collection import Collection
from rankdistill.formats.guarded import read_array
from rankdistill.formats.writing import save_array
from rankdistill.options.training import MarginMSEOptions
from rankdistill.retrieval.cluster import kmeans
from rankdistill.training.rows import Placed, batch_plan
from rankdistill.training.run import plan_facts
from rankdistill.training.teacher_vectors import cached_query_vectors

__all__ = ["check_sampler", "sampled_plan", "sampling_facts"]

_STEPS_A_CLUSTER = 8
"""By default a cluster has queries for this many steps, so that each step is another sample of it."""


def check_sampler(options: MarginMSEOptions) -> None:
    """Refuses options of one sampler that are given for the other.

    Raises:
        ValueError: with what goes together.
    """
    if options.sampler == "shuffle":
        given = [name for name in ("clusters", "cluster_model", "num_clusters") if getattr(options, name) is not None]
        if given:
            names = ", ".join("--" + name.replace("_", "-") for name in given)
            raise ValueError(f"expected --sampler tas with {names}, found shuffle")
    elif options.clusters is None:
        if options.cluster_model is None and options.in_batch_teacher is None:
            raise ValueError(
                "expected --clusters, --cluster-model or --in-batch-teacher with --sampler tas, found none"
            )
    elif options.cluster_model is not None or options.num_clusters is not None:
        raise ValueError(
            "expected either --clusters, or what they are made with (--cluster-model, --num-clusters), found both"
        )


def sampled_plan(
    options: MarginMSEOptions, placed: Placed, docs: TokenStore, collection: Collection, state: PartialState
) -> Plan:
    """The plan of this process.

    Raises:
        ValueError: if the rows don't suffice, or for a number of clusters that can't be.
        BadDataError: for a cluster file that is broken.
    """
    world_size, rank = state.num_processes, state.process_index
    if options.sampler == "shuffle":
        return batch_plan(options, placed, docs, world_size=world_size, rank=rank)
    queries_R, margins_R = np.empty(placed.num_rows, np.int64), np.empty(placed.num_rows, np.float32)
    for block in row_blocks(placed.num_rows):
        queries_R[block], _, scores_BN = placed.gather(block)
        # Of many docs, the negative that is hardest to tell from the positive stands for its row.
        margins_R[block] = scores_BN[:, 0] - scores_BN[:, 1:].max(1)
    if options.clusters is not None:
        cluster_of = np.full(collection.num_queries, -1)
        for number, ids in enumerate(read_clusters(options.clusters)):
            rows = collection.query_rows(ids)
            cluster_of[rows[rows >= 0]] = number
    else:
        with state.main_process_first():  # the first process makes the clusters, the others read them
            cluster_of = _made_clusters(options, np.unique(queries_R), collection, world_size)
    return TASPlan(
        rows_by_cluster=TASRows.of(queries_R, margins_R, cluster_of),
        num_rows=placed.num_rows,
        batch_size=options.batch_size,
        seed=options.seed,
        world_size=world_size,
        rank=rank,
    )


def _made_clusters(
    options: MarginMSEOptions, queries: NDArray[np.int64], collection: Collection, world_size: int
) -> NDArray[np.int64]:
    """The cluster of each query of the collection, by k-means over the vectors of `queries`; kept in the cache."""
    model = options.cluster_model or options.in_batch_teacher
    assert model is not None
    vectors = cached_query_vectors(model, collection, device=options.device)[queries]
    of_a_cluster = _STEPS_A_CLUSTER * options.batch_size * world_size
    num_clusters = options.num_clusters or max(1, round(len(queries) / of_a_cluster))
    name = fingerprint_of(vectors.tobytes(), queries.tobytes(), num_clusters, options.seed)
    path = cache_folder("clusters") / f"{name}.npy"
    if not path.is_file():
        cluster_of = np.full(collection.num_queries, -1)
        cluster_of[queries] = kmeans(vectors, num_clusters, seed=options.seed)
        save_array(path, cluster_of)
    found: NDArray[np.int64] = read_array(path, None)
    return found


def sampling_facts(plan: Plan) -> dict[str, int]:
    """What config.json tells of a plan."""
    facts = plan_facts(plan)
    if isinstance(plan, TASPlan):
        rows = plan.rows_by_cluster
        facts |= {
            "clusters": rows.num_clusters,
            "queries_sampled": rows.num_queries,
            "queries_left_out_with_one_row": rows.num_few,
            "queries_left_out_without_cluster": rows.num_outside,
        }
    return facts
