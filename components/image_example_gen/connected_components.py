"""Connected components of a graph that may be too large for one process, in a bounded number of rounds.

Reference: R. Kiveris, S. Lattanzi, V. Mirrokni, V. Rastogi & S. Vassilvitskii, Connected Components in MapReduce and
Beyond, SoCC 2014, section 3 (alternating Large-Star and Small-Star).
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.image_example_gen.columns import Columns
from components.image_example_gen.duplicates import connected
from components.image_example_gen.exchange import Exchange, items_of, spread
from components.image_example_gen.shards import WorkFolder

# Vertices are compared; the smallest of a component is its root.
Vertex = Any
Edge = tuple[Vertex, Vertex]

# So many edges, and fewer, are solved in this process.
MOST_EDGES = 200_000
# The paper proves O(log² n) rounds. Graphs of 10⁹ vertices took fewer than ten there.
_MOST_ROUNDS = 100


@dataclass(frozen=True)
class Graph:
    """Edges in files, and the files that take the components.

    Attributes:
      folder: Contains the files.
      edges: Kinds of the files of edges: a list of pairs of different vertices in each.
      roots: Kind of the files of components: vertex → smallest vertex of its component, for the vertices of one
        partition that have an edge.
      num_partitions: Number of the files of each kind.
      partition_of: (vertex, number of partitions) → its partition.
    """

    folder: WorkFolder
    edges: tuple[str, ...]
    roots: str
    num_partitions: int
    partition_of: Callable[[Vertex, int], int]

    def load(self, kinds: Iterable[str], number: int) -> list[Edge]:
        """Loads edges from the files with that number."""
        return [edge for kind in kinds for edge in self.folder.load(kind, number)]

    def by_vertex(self, pairs: Iterable[Edge]) -> Iterator[Columns]:
        """Gives pairs to the partition of their first vertex."""
        return spread((self.partition_of(pair[0], self.num_partitions), pair) for pair in pairs)


def find(graph: Graph, exchange: Exchange, num_edges: int, most_edges: int = MOST_EDGES) -> None:
    """Writes the component of every vertex that has an edge.

    Args:
      graph: Its edges are written.
      exchange: Runs the rounds.
      num_edges: Number of all edges.
      most_edges: The number up to which one process finds the components, which is the faster way.
    """
    if num_edges <= most_edges:
        _find_in_memory(graph)
        return
    edges, partitions = graph.edges, range(graph.num_partitions)
    for number in range(_MOST_ROUNDS):
        # Every round has files of its own: an engine that repeats a task reads what it read before.
        large, small = f"{graph.roots}-large-{number}", f"{graph.roots}-small-{number}"
        unsettled = exchange.run(
            partitions, _BothDirections(graph, edges), graph.num_partitions, _LargeStar(graph, large)
        )
        if not sum(unsettled):
            exchange.run(partitions, _LeavesAndRoots(graph, (large,)), graph.num_partitions, _Roots(graph))
            return
        exchange.run(partitions, _Descending(graph, (large,)), graph.num_partitions, _SmallStar(graph, small))
        edges = (small,)
    raise RuntimeError(
        f"The groups of duplicates were not found in {_MOST_ROUNDS} rounds. This is a defect of tfx-vision, please "
        "report it."
    )


def _find_in_memory(graph: Graph) -> None:
    def ends() -> Iterator[Vertex]:
        for partition in range(graph.num_partitions):
            yield from itertools.chain.from_iterable(graph.load(graph.edges, partition))

    vertices = sorted(set(ends()))
    number_of = {vertex: number for number, vertex in enumerate(vertices)}
    pairs = np.fromiter(map(number_of.__getitem__, ends()), np.int64).reshape(-1, 2)
    components = connected(pairs, len(vertices))
    # Vertices are in order, so that the first of a component is the smallest; components are numbered from 0.
    _, firsts = np.unique(components, return_index=True)
    roots = firsts[components]
    partitions = np.fromiter((graph.partition_of(vertex, graph.num_partitions) for vertex in vertices), np.int64)
    order = np.argsort(partitions, kind="stable")
    starts = np.searchsorted(partitions[order], np.arange(graph.num_partitions + 1)).tolist()
    for partition, (start, end) in enumerate(itertools.pairwise(starts)):
        members = order[start:end].tolist()
        graph.folder.store(graph.roots, partition, {vertices[member]: vertices[roots[member]] for member in members})


# === Rounds ===


@dataclass(frozen=True)
class _Mapper:
    """Reads the edges of the files with the number of the task."""

    graph: Graph
    source: tuple[str, ...]


@dataclass(frozen=True)
class _Reducer:
    """Writes edges into a file with the number of the partition."""

    graph: Graph
    target: str


class _BothDirections(_Mapper):
    """Gives every vertex all its neighbours."""

    def __call__(self, task: int) -> Iterator[Columns]:
        return self.graph.by_vertex(pair for u, v in self.graph.load(self.source, task) for pair in ((u, v), (v, u)))


class _LargeStar(_Reducer):
    """Connects the larger neighbours of a vertex with the smallest of it and its neighbours.

    Returns the number of vertices that are neither the root of a star nor a leaf: without any, all components are
    stars.
    """

    def __call__(self, partition: int, blocks: list[Columns]) -> int:
        unsettled, edges = 0, list[Edge]()
        for vertex, neighbors in _neighbors(blocks).items():
            smallest = min(neighbors)
            unsettled += smallest < vertex and len(neighbors) > 1
            root = min(smallest, vertex)
            edges += [(neighbor, root) for neighbor in neighbors if neighbor > vertex]
        self.graph.folder.store(self.target, partition, edges)
        return unsettled


class _Descending(_Mapper):
    """Gives every vertex its smaller neighbours."""

    def __call__(self, task: int) -> Iterator[Columns]:
        return self.graph.by_vertex(self.graph.load(self.source, task))


class _SmallStar(_Reducer):
    """Connects a vertex and its smaller neighbours with the smallest of these."""

    def __call__(self, partition: int, blocks: list[Columns]) -> None:
        edges = list[Edge]()
        for vertex, neighbors in _neighbors(blocks).items():
            root = min(neighbors)
            edges += [(each, root) for each in (vertex, *neighbors) if each != root]
        self.graph.folder.store(self.target, partition, edges)


class _LeavesAndRoots(_Mapper):
    """Gives every leaf its root, and the root itself."""

    def __call__(self, task: int) -> Iterator[Columns]:
        edges = self.graph.load(self.source, task)
        return self.graph.by_vertex([*edges, *((root, root) for root in {root for _, root in edges})])


@dataclass(frozen=True)
class _Roots:
    """Writes the root of every vertex."""

    graph: Graph

    def __call__(self, partition: int, blocks: list[Columns]) -> None:
        self.graph.folder.store(self.graph.roots, partition, dict(items_of(blocks)))


def _neighbors(blocks: list[Columns]) -> dict[Vertex, set[Vertex]]:
    neighbors: dict[Vertex, set[Vertex]] = defaultdict(set)
    for vertex, neighbor in items_of(blocks):
        neighbors[vertex].add(neighbor)
    return neighbors
