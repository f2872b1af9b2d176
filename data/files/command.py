"""What every command has around its work: flags, errors, Ctrl-C, exit codes.

A command names its flags in one function and does its work in another one,
which imports what it needs. So `--help` and a wrong flag are answered at once,
and Ctrl-C ends in one line also while libraries are loaded.

Exit codes: 0 done, 1 something failed, 2 a wrong command line, 130 Ctrl-C.
`DBDC_TRACEBACK=1` shows where an error came from.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import io
import os
import select
import signal
import sys
import time
import types
from typing import NoReturn, TextIO

from data.files import errors, names, signals

INTERRUPTED = 128 + signal.SIGINT
_STOPPED = 'stopped: nothing half-written is left; the same command goes on'
# A second Ctrl-C counts after this time: the first one tidies up.
_GRACE_SECONDS = 3
# A progress bar hides it.
_SHOW_CURSOR = b'\x1b[?25h'


class WrongFlags(Exception):  # noqa: N818  Reads better where it is raised.
  """A command line that cannot be meant; the text says why."""


def parser(module: str, text: str | None) -> argparse.ArgumentParser:
  """A parser for a command's flags.

  Args:
    module: what stands behind `python -m`.
    text: its docstring, the head of `--help`.
  """
  return argparse.ArgumentParser(
    prog=f'python -m {module}',
    description=text,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )


def run(
  flags: Callable[[], argparse.ArgumentParser],
  work: Callable[[argparse.Namespace], int | None],
  argv: Sequence[str] | None = None,
) -> int:
  """Runs a command; returns its exit code.

  Args:
    flags: makes the parser.
    work: does what the flags say; returns the exit code, None being 0.
    argv: the arguments, those of the process by default.

  Raises:
    SystemExit: the flags are wrong (code 2), or ask for help (code 0).
  """

  def parsed() -> int | None:
    parser = flags()
    try:
      return work(parser.parse_args(argv))
    except WrongFlags as error:
      parser.error(str(error))

  return guard(parsed)


def guard(work: Callable[[], int | None]) -> int:
  """The exit code of some work; an error or Ctrl-C is told in one line."""
  for stream in (sys.stdout, sys.stderr):
    # Names are of any language; a terminal need not have its letters.
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')
  with _interruptible() as came:
    try:
      quiet()
      try:
        return work() or 0
      finally:
        sys.stdout.flush()
    except BaseException as error:
      if isinstance(error, SystemExit) and error.code == INTERRUPTED:
        return INTERRUPTED  # An inner command has said so.
      # A library may make another error of a KeyboardInterrupt.
      return _end(KeyboardInterrupt() if came else error)


def leave(code: int) -> NoReturn:
  """Ends the process; what Ctrl-C interrupted is not waited for."""
  if code == INTERRUPTED:
    os._exit(code)
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # There is nothing to interrupt any more.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
  sys.exit(code)


def quiet() -> None:
  """Silences libraries, which log each error before they raise it."""
  from absl import logging  # Late: Ctrl-C is heeded already.

  logging.set_verbosity(logging.FATAL)


def tell(text: str) -> None:
  """Prints on standard error what a terminal cannot obey, if anybody reads."""
  lines = map(names.printable, text.split('\n'))
  try:
    print('\n'.join(lines), file=sys.stderr, flush=True)
  except BrokenPipeError:
    _unread(sys.stderr)


def _end(error: BaseException) -> int:
  """Tells what ended a command; returns the exit code."""
  if isinstance(error, KeyboardInterrupt):
    tell(_STOPPED)
    return INTERRUPTED
  if isinstance(error, BrokenPipeError) and _unread(sys.stdout):
    return 1
  known = isinstance(error, errors.Refusal | ValueError | OSError)
  if not known or os.environ.get('DBDC_TRACEBACK'):
    raise error
  if isinstance(error, errors.Refusal):
    tell(error.told())
  else:
    tell(f'error: {errors.sentence(error)}')
  return 1


def _unread(stream: TextIO) -> bool:
  """Whether a pipe's reader has gone (`| head`); then nothing more is said."""
  poll = select.poll()
  poll.register(stream.fileno(), 0)  # What is wrong is always reported.
  gone = any(event & select.POLLERR for _, event in poll.poll(0))
  if gone:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
  return gone


def _loads(frame: types.FrameType | None) -> bool:
  """Whether a command imports something: it has not begun with its work."""
  above = ''
  while frame is not None:
    importing = above.startswith('<frozen importlib')
    if importing and frame.f_globals.get('__name__') == '__main__':
      return True
    above, frame = frame.f_code.co_filename, frame.f_back
  return False


@contextlib.contextmanager
def _interruptible() -> Iterator[list[float]]:
  """Ctrl-C as one `KeyboardInterrupt`; later ones end the process.

  Yields:
    When each came.
  """
  came: list[float] = []

  def stop(frame: types.FrameType | None) -> KeyboardInterrupt | None:
    if _loads(frame):
      # Libraries of C would print what they cannot raise.
      tell(_STOPPED)
      os._exit(INTERRUPTED)
    if came and time.monotonic() - came[0] > _GRACE_SECONDS:
      if sys.stderr.isatty():
        os.write(2, _SHOW_CURSOR)
      os._exit(INTERRUPTED)
    came.append(time.monotonic())
    return None if came[1:] else KeyboardInterrupt()

  # Whoever started this in the background has it ignored.
  with signals.handling(signal.SIGINT, signal.default_int_handler, stop):
    yield came
