import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from dbdc_jax import checkpoint


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


def test_a_save_does_not_wait_for_those_before(tmp_path, gate):
  """Nothing is written until all have been handed over; all arrive."""
  with checkpoint.Checkpoints(tmp_path) as store:
    for step in range(1, checkpoint._MOST_SAVING + 1):
      state = _state(step)
      store.save(step, state, 1 / step)
      # What trains goes on with the memory.
      jax.tree.map(lambda x: x.delete(), state)
    assert checkpoint.steps(tmp_path) == []
    gate.set()
    store.wait()
    # The best, and the last two.
    assert checkpoint.steps(tmp_path) == [1, 2, 3]
    step, arrays = store.best(_state(0))
    assert step == 1 and tiny.same(arrays, jax.device_get(_state(1)))
    for step in (2, 3):
      found = store.at(step, _state(0))
      assert tiny.same(found, jax.device_get(_state(step)))


def test_no_more_than_so_many_copies_of_the_state_are_held(tmp_path, gate):
  handed = []
  with checkpoint.Checkpoints(tmp_path) as store:

    def train():
      for step in range(1, checkpoint._MOST_SAVING + 2):
        store.save(step, _state(step), None)
        handed.append(step)

    trainer = threading.Thread(target=train)
    trainer.start()
    while len(handed) < 3:
      trainer.join(0.1)
    trainer.join(0.5)
    # The next one waits for the disk.
    assert handed == [1, 2, 3] and trainer.is_alive()
    gate.set()
    trainer.join(60)
    assert handed == [1, 2, 3, 4]
  assert checkpoint.steps(tmp_path) == [3, 4]


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
