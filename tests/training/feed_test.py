import jax
import numpy as np
import pytest

from dbdc_jax.runtime import parallel
from dbdc_jax.training.feed import Feed


class Samples:
  """Ten slices and their labels, by row."""

  def __init__(self):
    rng = np.random.default_rng(0)
    self.image = rng.integers(0, 65536, (10, 4, 4)).astype(np.uint16)
    self.label = rng.integers(0, 5, (6, 4, 4)).astype(np.uint8)
    self.nbytes = self.image.nbytes + self.label.nbytes
    self.complete = True

  def release(self):
    return {'image': self.image, 'label': self.label}


class Batches:
  """Random rows of them, two modalities."""

  consistent = np.array([True, False])

  def __init__(self):
    self.samples = Samples()

  def rows(self, step):
    rng = np.random.default_rng(step)
    draw = lambda count: rng.integers(0, count, (2, 8)).astype(np.int32)
    index = np.arange(16, dtype=np.int32).reshape(2, 8)
    return {
      'labeled': {'image': draw(10), 'label': draw(6), 'index': index},
      'unlabeled': {'image': draw(10), 'index': index},
    }

  def batch(self, step):
    tables = self.samples.release()
    return {
      kind: {
        name: tables[name][rows] if name in tables else rows
        for name, rows in group.items()
      }
      for kind, group in self.rows(step).items()
    }

  def iterate(self, start, stop):
    return map(self.batch, range(start, stop))


def test_on_the_devices_and_from_the_host_the_batches_are_the_same():
  batches = Batches()
  resident = Feed(batches, room=batches.samples.nbytes)
  sent = Feed(batches, room=batches.samples.nbytes - 1)
  assert resident._tables is not None and sent._tables is None
  pairs = zip(resident.iterate(3, 6), sent.iterate(3, 6), strict=True)
  for step, (there, here) in enumerate(pairs, 3):
    assert jax.tree.structure(there) == jax.tree.structure(here)
    for a, b in zip(jax.tree.leaves(there), jax.tree.leaves(here), strict=True):
      assert isinstance(a, jax.Array) and a.dtype == b.dtype
      np.testing.assert_array_equal(a, b)
    expected = parallel.shard(batches.batch(step))
    np.testing.assert_array_equal(
      there['labeled']['label'], expected['labeled']['label']
    )
  assert list(resident.iterate(4, 4)) == []
  np.testing.assert_array_equal(resident.consistent, batches.consistent)


def test_samples_that_are_decoded_each_time_are_never_looked_up():
  batches = Batches()
  batches.samples.complete = False
  feed = Feed(batches, float('inf'))
  assert feed._tables is None
  (found,) = feed.iterate(0, 1)
  expected = parallel.shard(batches.batch(0))
  np.testing.assert_array_equal(
    found['unlabeled']['image'], expected['unlabeled']['image']
  )


def test_each_device_holds_the_samples_and_looks_up_its_own():
  found = next(Feed(Batches(), float('inf')).iterate(0, 1))
  image = found['unlabeled']['image']
  assert image.shape == (4, 2, 2, 4, 4)
  assert len({shard.device for shard in image.addressable_shards}) == 4
  tables = parallel.share(Samples().release())
  assert {len(table.addressable_shards) for table in tables.values()} == {4}


@pytest.mark.parametrize(
  ('statistics', 'room'), [(None, None), ({'bytes_limit': 800}, 100)]
)
def test_data_may_take_an_eighth_of_a_devices_memory(
  monkeypatch, statistics, room
):
  class Device:
    def memory_stats(self):
      return statistics

  monkeypatch.setattr(jax, 'local_devices', lambda: [Device()])
  assert parallel.room() == room
