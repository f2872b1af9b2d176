"""Signals as exceptions that do not get lost.

Python runs a signal's handler between two of its instructions, wherever it is.
Inside a callback of the garbage collector (jax has one that is called each
time), a `__del__` or a function that C calls, it only reports an exception and
goes on: of ten Ctrl-C while jax traces, one may do nothing.
"""

from collections.abc import Callable, Iterator
import contextlib
import signal
import sys
import threading
import types
from typing import Any

Stop = Callable[[types.FrameType | None], BaseException | None]


@contextlib.contextmanager
def handling(number: int, usual: Any, stop: Stop) -> Iterator[None]:
  """Another handler of a signal.

  Args:
    number: of the signal.
    usual: its handler where nobody has set one; another one stays.
    stop: given where the program is, returns what is raised there; None is
      nothing. Where Python cannot raise it, it is raised a moment later.
  """
  main = threading.main_thread()
  here = threading.current_thread() is main
  if not here or signal.getsignal(number) != usual:
    yield
    return
  raised: BaseException | None = None
  lost: threading.Timer | None = None

  def handle(number: int, frame: types.FrameType | None) -> None:
    nonlocal raised, lost
    raised, lost = (raised if lost else stop(frame)), None
    if raised is not None:
      raise raised

  def report(found: Any) -> None:
    nonlocal lost
    if raised is None or found.exc_value is not raised:
      told(found)
      return
    # The callback has ended by then.
    lost = threading.Timer(0.01, signal.pthread_kill, (main.ident, number))
    lost.start()

  told = sys.unraisablehook
  signal.signal(number, handle)
  sys.unraisablehook = report
  try:
    yield
  finally:
    sys.unraisablehook = told
    signal.signal(number, usual)
    if lost is not None and raised is not None:
      # Also where another exception ends the block: whoever handles that one
      # would go on.
      lost.cancel()
      raise raised
