"""An exchange that runs steps as an engine does, in this process."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from components.image_example_gen.exchange import LocalExchange


class ManyTasks:
    """An exchange with several tasks, as on an engine; the blocks of a partition come in another order."""

    def run(self, tasks: Iterable[int], mapper: Any, num_partitions: int, reducer: Any) -> Iterator[Any]:
        """Runs a step; its functions and results are pickled."""
        mapper, reducer = pickle.loads(pickle.dumps((mapper, reducer)))

        def shuffled(partition: int, blocks: list[Any]) -> Any:
            np.random.default_rng(partition).shuffle(blocks)
            return pickle.loads(pickle.dumps(reducer(partition, blocks)))

        yield from LocalExchange().run(tasks, mapper, num_partitions, shuffled)
