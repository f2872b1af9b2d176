import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from dbdc_jax.runtime import parallel
from dbdc_jax.workdir import checkpoint


def _state(step):
  return {'step': jnp.int32(step), 'w': jnp.arange(4000.0) * step}


@pytest.fixture
def gate(monkeypatch):
  """Writing waits until the gate is opened."""
  opened = threading.Event()
  write = checkpoint.Checkpoints._write

  def gated(self, *args):
    assert opened.wait(60)
    write(self, *args)

  monkeypatch.setattr(checkpoint.Checkpoints, '_write', gated)
  yield opened
  opened.set()


def _trained(state):
  """What takes a state's memory, as a step does."""
  grow = lambda tree: jax.tree.map(lambda x: x + 1, tree)
  return jax.jit(grow, donate_argnums=0)(state)


def test_a_save_does_not_wait_for_the_one_before(tmp_path, gate):
  """Nothing is written until all have been handed over; all arrive."""
  with checkpoint.Checkpoints(tmp_path) as store:
    for step in range(1, checkpoint._MOST_SAVING + 1):
      state = parallel.place(_state(step))
      store.save(step, state, 1 / step)
      # Training goes on with the memory.
      _trained(state)
    assert checkpoint.steps(tmp_path) == []
    gate.set()
    store.wait()
    assert checkpoint.steps(tmp_path) == [1, 2]
    best, arrays = store.best(_state(0))
    assert best == 1 and tiny.same(arrays, jax.device_get(_state(1)))
    assert tiny.same(store.at(2, _state(0)), jax.device_get(_state(2)))


def test_no_more_than_so_many_copies_of_the_state_are_held(
  tmp_path, gate, monkeypatch
):
  copied = []
  get = jax.device_get
  monkeypatch.setattr(jax, 'device_get', lambda x: copied.append(1) or get(x))
  with checkpoint.Checkpoints(tmp_path) as store:

    def train():
      for step in range(1, checkpoint._MOST_SAVING + 2):
        store.save(step, _state(step), None)

    trainer = threading.Thread(target=train, daemon=True)
    trainer.start()
    deadline = time.monotonic() + 60
    while len(copied) < checkpoint._MOST_SAVING and time.monotonic() < deadline:
      trainer.join(0.1)
    trainer.join(0.5)
    # The next one waits for the disk.
    assert len(copied) == checkpoint._MOST_SAVING and trainer.is_alive()
    gate.set()
    trainer.join(60)
    assert len(copied) == checkpoint._MOST_SAVING + 1
  assert checkpoint.steps(tmp_path) == [2, 3]


def test_a_save_that_failed_is_told_of_by_the_next(tmp_path, monkeypatch):
  def full(self, step, arrays, dice):
    raise RuntimeError('No space left on device')

  with checkpoint.Checkpoints(tmp_path) as store:
    store.save(1, _state(1), None)
    store.wait()
    monkeypatch.setattr(checkpoint.Checkpoints, '_write', full)
    store.save(2, _state(2), None)
    store._saving[0].exception()
    with pytest.raises(OSError, match='checkpoints/1 stands'):
      store.save(3, _state(3), None)
  assert checkpoint.steps(tmp_path) == [1]


def test_what_is_read_back_has_the_types_of_what_was_saved(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as store:
    store.save(4, _state(4), None)
    step, arrays = store.latest(_state(0))
  assert step == 4 and arrays['step'].dtype == np.int32
