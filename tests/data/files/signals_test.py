"""A signal that comes while the garbage collector calls somebody."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time

import pytest

from data.files import atomic, command, signals


@contextlib.contextmanager
def _in_a_collection(number):
  """The next collection's callback gets a signal, as a program of jax may."""
  sent = []

  def callback(phase, info):
    del info
    if phase == 'start' and not sent:
      sent.append(phase)
      os.kill(os.getpid(), number)
      for _ in range(100):  # The handler is called here.
        pass

  gc.callbacks.append(callback)
  try:
    yield sent
  finally:
    gc.callbacks.remove(callback)


def _collect(seconds=30.0):
  """Collects, and waits for what comes a moment later."""
  gc.collect()
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    pass


def test_termination_is_not_lost():
  hook, handler = sys.unraisablehook, signal.getsignal(signal.SIGTERM)
  with (
    _in_a_collection(signal.SIGTERM) as sent,
    pytest.raises(SystemExit) as caught,
    atomic.terminable(),
  ):
    _collect()
  assert sent and caught.value.code == 128 + signal.SIGTERM
  assert sys.unraisablehook is hook
  assert signal.getsignal(signal.SIGTERM) is handler


def test_what_was_lost_at_the_very_end_is_raised_there():
  with (
    _in_a_collection(signal.SIGTERM) as sent,
    pytest.raises(SystemExit),
    atomic.terminable(),
  ):
    gc.collect()
  assert sent


def test_an_exception_that_is_handled_does_not_stand_in_for_it():
  with (
    _in_a_collection(signal.SIGTERM),
    pytest.raises(SystemExit) as caught,
    contextlib.suppress(ValueError),
    atomic.terminable(),
  ):
    gc.collect()
    raise ValueError
  assert isinstance(caught.value.__context__, ValueError)


def test_ctrl_c_is_one_line_and_comes_once(capsys):
  with _in_a_collection(signal.SIGINT) as sent:
    assert command.guard(_collect) == 130
  (line,) = capsys.readouterr().err.splitlines()
  assert sent and line.startswith('stopped: ')


def test_other_exceptions_are_reported_as_ever(monkeypatch):
  told = []
  monkeypatch.setattr(sys, 'unraisablehook', told.append)

  class Bad:
    def __del__(self):
      raise ValueError('no')

  usual = signal.getsignal(signal.SIGTERM)
  with signals.handling(signal.SIGTERM, usual, lambda frame: None):
    Bad()
    gc.collect()
  (found,) = told
  assert str(found.exc_value) == 'no'


RUN = """
import gc, os, signal, sys, time
from dbdc_jax.runtime import stopping
sent = []
def callback(phase, info):
  if phase == 'start' and not sent:
    sent.append(phase)
    os.kill(os.getpid(), signal.{name})
    for _ in range(100): pass
with stopping.stoppable(lambda: 'checkpoint 3 stands'):
  try:
    gc.callbacks.append(callback)
    gc.collect()
    # Less than the patience of the one who ends it otherwise.
    time.sleep(6)
  finally:
    print('tidied up', flush=True)
"""


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_a_run_is_stopped_in_order(name):
  done = subprocess.run(
    [sys.executable, '-c', RUN.format(name=name)],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 128 + signal.Signals[name], done.stderr
  assert done.stdout == 'tidied up\n'
  assert done.stderr.startswith(f'\nstopped by {name}; checkpoint 3 stands')
  assert 'Traceback' not in done.stderr
