"""Queues let go of callers that go away or whose time ends."""

import threading
import time

import numpy as np
import pytest

from serving.local_server.admission import Admission
from serving.local_server.batching import Batcher, BatchingParameters
from serving.local_server.caller import Caller
from serving.local_server.errors import RequestError


class Gate:
    """A servable whose calls wait for `opened`; counts them."""

    def __init__(self):  # noqa: D107
        self.opened, self.started, self.runs = threading.Event(), threading.Event(), 0

    def run_now(self, feeds, fetches, caller=None):  # noqa: D102
        self.runs += 1
        self.started.set()
        assert self.opened.wait(10)
        return [np.zeros(1)]


def start(runner, servable, caller, results):
    def call():
        try:
            results.append(runner.run(servable, {"x": np.zeros(1)}, ("y",), caller))
        except RequestError as error:
            results.append(error.code)

    thread = threading.Thread(target=call)
    thread.start()
    return thread


@pytest.fixture(params=["alone", "batched"])
def runner(request):
    if request.param == "alone":
        yield Admission(1, 8)
        return
    batcher = Batcher(BatchingParameters(num_batch_threads=1, max_batch_size=1, max_execution_batch_size=1))
    yield batcher
    batcher.stop()


def test_cancelled_callers_leave_the_queue_at_once_and_never_run(runner):
    servable, results = Gate(), []
    threads = [start(runner, servable, Caller(), results)]
    assert servable.started.wait(5)
    callers = [Caller() for _ in range(5)]
    threads += [start(runner, servable, caller, results) for caller in callers]
    time.sleep(0.1)
    for caller in callers[:4]:
        caller.cancel()
    for thread in threads[1:5]:
        thread.join(2)
    assert results == ["CANCELLED"] * 4
    servable.opened.set()
    for thread in threads:
        thread.join(5)
    assert len(results) == 6 and servable.runs == 2


def test_the_place_of_a_cancelled_caller_is_free_again():
    admission, servable, results = Admission(1, 1), Gate(), []
    threads = [start(admission, servable, Caller(), results)]
    assert servable.started.wait(5)
    for _ in range(5):
        caller = Caller()
        waiting = start(admission, servable, caller, results)
        time.sleep(0.02)
        caller.cancel()
        waiting.join(2)
    assert results == ["CANCELLED"] * 5
    gone = Caller()
    gone.cancel()
    threads.append(start(admission, servable, gone, results))
    threads.append(start(admission, servable, Caller(0.05), results))
    threads[1].join(2)
    threads[2].join(2)
    assert sorted(results[5:]) in (["CANCELLED", "DEADLINE_EXCEEDED"], ["CANCELLED", "UNAVAILABLE"])
    servable.opened.set()
    threads[0].join(5)
    last: list = []
    start(admission, servable, Caller(), last).join(5)
    assert len(last[0]) == 1


def test_remaining_time():
    assert Caller().remaining_s() is None
    assert 0.5 < Caller(1.0).remaining_s() <= 1.0
    assert Caller(-1.0).remaining_s() == 0.0
    with pytest.raises(RequestError, match="Timed out waiting for notification"):
        Caller(0.01).wait(threading.Event())


def test_only_a_caller_that_waits_is_watched():
    watched: list = []

    def watch(cancel):
        watched.append(cancel)
        return True

    admission, servable, results = Admission(1, 1), Gate(), []
    servable.opened.set()
    start(admission, servable, Caller(watch=watch), results).join(5)
    assert not watched and len(results) == 1

    servable.opened.clear()
    servable.started.clear()
    threads = [start(admission, servable, Caller(), results)]
    assert servable.started.wait(5)
    threads.append(start(admission, servable, Caller(watch=watch), results))
    for _ in range(500):
        if watched:
            break
        time.sleep(0.01)
    watched[0]()
    threads[1].join(5)
    assert results[1:] == ["CANCELLED"] and len(watched) == 1
    servable.opened.set()
    threads[0].join(5)


def test_a_caller_that_was_gone_before_it_is_watched_does_not_wait():
    with pytest.raises(RequestError, match="cancelled"):
        Caller(watch=lambda cancel: False).wait(threading.Event())
