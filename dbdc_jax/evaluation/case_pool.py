"""One function for many cases, on several processes.

A process that is killed (out of memory, mostly) costs its own case and no other
one: what it and its neighbours left undone is done again, case by case.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
import contextlib
import multiprocessing
import os
import signal
import threading
from typing import Any


def count() -> int:
  """Processors that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _follow() -> None:
  """Ends with the first process, however that ends."""
  # Ctrl-C reaches the whole group; the first process tells the others.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_outlive, daemon=True).start()


def _outlive() -> None:
  if (first := multiprocessing.parent_process()) is not None:
    first.join()
  os._exit(1)


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[futures.ProcessPoolExecutor]:
  """Fresh processes, not copies of this one: it may have threads."""
  pool = futures.ProcessPoolExecutor(
    workers, multiprocessing.get_context('spawn'), _follow
  )
  try:
    yield pool
  finally:
    # What has not begun is not waited for, whatever ended this one.
    pool.shutdown(cancel_futures=True)


def run(
  function: Callable[[Any], Any],
  items: Sequence[Any],
  workers: int,
  lost: Callable[[Any], Any],
) -> Generator[tuple[int, Any], None, None]:
  """The function's result for every item, as soon as it is known.

  Args:
    function: of one item; a module's own function, or a partial of one.
    items: what it is called with.
    workers: processes; with 1 this one does it all.
    lost: gives the result of an item whose process was killed.

  Yields:
    An item's index and its result, in any order.
  """
  workers = min(workers, len(items))
  if workers <= 1:
    yield from enumerate(map(function, items))
    return
  left = dict(enumerate(items))
  with contextlib.suppress(BrokenProcessPool), _pool(workers) as pool:
    waiting = {pool.submit(function, x): i for i, x in left.items()}
    for done in futures.as_completed(waiting):
      yield waiting[done], done.result()
      del left[waiting[done]]
  while left:
    with _pool(1) as pool:
      try:
        for index in list(left):
          yield index, pool.submit(function, left[index]).result()
          del left[index]
      except BrokenProcessPool:
        yield index, lost(left.pop(index))
