"""What a run does when it is told to stop: SIGTERM, Ctrl-C.

Python handles a signal only between two of its own instructions, and one call
of XLA's compiler takes half a minute. So a signal is raised as an exception,
which closes files and lets a running save finish; and a thread that sees it at
once ends the process if that takes longer than a scheduler is patient.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import sys
import threading

from data.files import signals

# Schedulers send SIGKILL 10 to 30 seconds after SIGTERM.
_GRACE_SECONDS = 8.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
  """The process was told to stop; `code` is 128 + the signal's number."""

  def __init__(self, number: int):
    super().__init__(128 + number)
    self.number = number


def _leave(number: int, describe: Callable[[], str]) -> None:
  """Says what stands and ends the process, whatever its threads do."""
  name = signal.Signals(number).name
  print(
    f'\nstopped by {name}; {describe()}. The same command goes on from there.',
    file=sys.stderr,
    flush=True,
  )
  sys.stdout.flush()
  os._exit(128 + number)


def _watch(pipe: int, describe: Callable[[], str]) -> None:
  """Ends the process some seconds after the first signal's number arrives."""
  number = os.read(pipe, 1)
  if not number or number[0] not in _SIGNALS:
    return
  threading.Event().wait(_GRACE_SECONDS)
  _leave(number[0], describe)


@contextlib.contextmanager
def stoppable(describe: Callable[[], str]) -> Iterator[None]:
  """Ends the process in order when it is told to stop inside of this.

  Exit code 143 for SIGTERM, 130 for Ctrl-C; a second signal ends it at once.

  Args:
    describe: says which checkpoint stands.
  """
  told = False

  def stop(number: int) -> Stopped:
    nonlocal told
    if told:
      os._exit(128 + number)
    told = True
    return Stopped(number)

  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  # Written to by the interpreter's own handler, at once and from any thread.
  wakeup = signal.set_wakeup_fd(writer)
  watcher = threading.Thread(target=_watch, args=(reader, describe))
  watcher.daemon = True
  watcher.start()
  try:
    with contextlib.ExitStack() as heeded:
      for number in _SIGNALS:
        usual = signal.getsignal(number)
        of_it = lambda frame, number=number: stop(number)
        heeded.enter_context(signals.handling(number, usual, of_it))
      yield
  except Stopped as stopped:
    _leave(stopped.number, describe)
  finally:
    signal.set_wakeup_fd(wakeup)
    os.close(writer)
    watcher.join(_GRACE_SECONDS)
    os.close(reader)
