import dataclasses

import numpy as np
import pytest

from data import preparation
from data import split as splits
from data.cache.whole_scans import resample
from data.phantoms import phantom
from data.task import HEART
from dbdc_jax.training import input_pipeline, scans

NAMES = ('ct', 'mr')
LABELABLE = np.ones((2, len(HEART.classes)), bool)


@pytest.fixture(scope='module')
def heart(tmp_path_factory):
  """A prepared tiny phantom and its split."""
  folder = tmp_path_factory.mktemp('pipeline')
  roots = phantom.write(
    'heart', folder / 'scans', subjects=5, size='tiny', quiet=True
  )
  prepared = preparation.prepare(
    HEART,
    HEART.modalities,
    roots,
    slice_size=32,
    roi='label',
    cache=str(folder / 'cache'),
    quiet=True,
  )
  split = splits.make(prepared.cases, seed=0, fold=0, labeled_fraction=0.4)
  return prepared, split


def _batches(heart, **kwargs):
  settings = {
    'batch_size': 4,
    'own': range(4),
    'seed': 0,
    'memory_limit_gib': 1.0,
    'use_unlabeled': True,
  }
  return input_pipeline.Batches(*heart, NAMES, **(settings | kwargs))


def _equal(a, b):
  return all(
    np.array_equal(a[kind][name], b[kind][name])
    for kind in a
    for name in a[kind]
  )


def _keys(batch):
  """The slices of a batch's labelled and unlabelled images, as bytes."""
  return {
    (kind, k): [image.tobytes() for image in batch[kind]['image'][k]]
    for kind in batch
    for k in range(len(NAMES))
  }


def test_a_batch_depends_on_seed_and_step_alone(heart):
  batches = _batches(heart)
  later = [batches.batch(step) for step in (7, 3)]
  again = _batches(heart)
  assert _equal(again.batch(3), later[1]) and _equal(again.batch(7), later[0])
  assert not _equal(again.batch(3), again.batch(4))
  assert not _equal(_batches(heart, seed=1).batch(3), later[1])


def test_each_process_loads_its_own_samples_of_the_same_batch(heart):
  whole = _batches(heart).batch(3)
  parts = [_batches(heart, own=r).batch(3) for r in (range(1), range(1, 4))]
  for kind, arrays in whole.items():
    for name, array in arrays.items():
      joined = np.concatenate([part[kind][name] for part in parts], 1)
      np.testing.assert_array_equal(joined, array)


def test_iterating_from_any_step_gives_the_same_batches(heart):
  batches = _batches(heart)
  loaded = list(batches.iterate(2, 5))
  assert len(loaded) == 3
  for step, batch in zip(range(2, 5), loaded, strict=True):
    assert _equal(batch, batches.batch(step))
  assert not list(batches.iterate(5, 5))


def test_streamed_slices_equal_those_in_memory(heart):
  everything = _batches(heart)
  count = len(everything.samples)
  assert everything.samples.in_memory == count
  size = 32 * 32 * 2**-30
  for limit in (0.0, 50 * size, 120 * size):
    some = _batches(heart, memory_limit_gib=limit)
    assert bool(some.samples.in_memory) == bool(limit)
    assert some.samples.in_memory < count
    for step in range(3):
      assert _equal(everything.batch(step), some.batch(step))
    for step, batch in zip(range(2, 22), some.iterate(2, 22), strict=True):
      assert _equal(everything.batch(step), batch)


@pytest.mark.parametrize('limit', [0.0, 1.0])
def test_every_epoch_has_every_slice_once_in_an_order_of_its_own(heart, limit):
  """Whatever the batch size, from any seed: a stream is epoch after epoch."""
  orders = {}
  for seed, size in ((0, 4), (0, 3), (1, 4)):
    batches = _batches(
      heart,
      seed=seed,
      batch_size=size,
      own=range(size),
      memory_limit_gib=limit,
    )
    taken = [batches.rows(step) for step in range(120 // size)]
    for kind in ('labeled', 'unlabeled'):
      for k in (0, 1):
        rows = np.concatenate([rows[kind]['image'][k] for rows in taken])
        count = len(set(rows))
        epochs = rows[: len(rows) // count * count].reshape(-1, count)
        assert len(epochs) > 1
        assert (np.sort(epochs, 1) == np.unique(rows)).all()
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
        orders[seed, size, kind, k] = rows[:count].tolist()
  for kind in ('labeled', 'unlabeled'):
    assert orders[0, 4, kind, 0] == orders[0, 3, kind, 0]
    assert orders[0, 4, kind, 0] != orders[1, 4, kind, 0]


def test_the_order_is_the_same_on_every_machine(heart):
  """Known rows: a run may go on under another version of NumPy."""
  rows = _batches(heart).rows(5)
  assert rows['labeled']['image'].tolist() == [[2, 10, 4, 6], [21, 14, 21, 15]]
  assert rows['unlabeled']['image'].tolist() == [
    [40, 44, 33, 37],
    [68, 62, 55, 45],
  ]


def test_shapes_types_and_global_indices(heart):
  batch = _batches(heart).batch(0)
  assert batch['labeled']['image'].shape == (2, 4, 32, 32)
  assert batch['labeled']['image'].dtype == np.uint16
  assert batch['labeled']['label'].dtype == np.uint8
  assert 'label' not in batch['unlabeled']
  for part in batch.values():
    np.testing.assert_array_equal(part['index'], np.arange(8).reshape(2, 4))


def test_an_epoch_is_the_largest_unlabelled_set_and_repeats_the_others(heart):
  prepared, split = heart
  batches = _batches(heart)
  slices = {
    (m, part): [
      image.tobytes() for case in cases for image in prepared.images(case)
    ]
    for part in ('labeled', 'unlabeled')
    for m, cases in zip(
      NAMES, scans.select(prepared, split, NAMES, part), strict=True
    )
  }
  largest = max(len(slices[m, 'unlabeled']) for m in NAMES)
  steps = scans.steps_per_epoch(prepared, split, NAMES, LABELABLE, 4)
  assert steps == -(-largest // 4)
  seen = {(kind, k): [] for kind in ('labeled', 'unlabeled') for k in (0, 1)}
  for step in range(steps):
    for key, images in _keys(batches.batch(step)).items():
      seen[key] += images
  for (kind, k), images in seen.items():
    # Every slice is seen, and none of another modality or part.
    assert set(images) == set(slices[NAMES[k], kind])


def test_without_unlabelled_scans_there_is_nothing_to_be_consistent_on(heart):
  prepared, _ = heart
  split = splits.make(prepared.cases, seed=0, fold=0, labeled_fraction=1.0)
  batches = _batches((prepared, split))
  assert not batches.consistent.any() and 'unlabeled' not in batches.batch(0)
  # One modality has some, the other has not: its images fill the batch.
  mixed = {m: {p: list(c) for p, c in split[m].items()} for m in NAMES}
  mixed['mr']['unlabeled'] = [mixed['mr']['labeled'].pop()]
  batches = _batches((prepared, mixed))
  np.testing.assert_array_equal(batches.consistent, [False, True])
  assert batches.batch(0)['unlabeled']['image'].shape == (2, 4, 32, 32)
  plain = _batches((prepared, mixed), use_unlabeled=False)
  assert 'unlabeled' not in plain.batch(0)


def _partly_drawn(heart, facts):
  """CT's labelled scans with other facts, and its unlabelled ones away.

  Returns:
    These scans, and `_batches`' data.
  """
  prepared, split = heart
  changed = {
    case.name: dataclasses.replace(case, **facts(case))
    for case in prepared.cases
    if case.name in split['ct']['labeled']
  }
  prepared = prepared.with_cases(changed)
  alone = {m: {p: list(c) for p, c in split[m].items()} for m in NAMES}
  alone['ct']['unlabeled'] = []
  return [*changed.values()], (prepared, alone)


def test_slices_that_nobody_drew_teach_as_unlabelled_ones(heart):
  first_alone = lambda case: {
    'undrawn': list(range(1, case.num_slices)),
    'unknown': 1,
  }
  cases, data = _partly_drawn(heart, first_alone)
  batches = _batches(data, labelable=LABELABLE)
  assert batches.consistent.all()
  images = {True: set(), False: set()}
  for case in cases:
    for index, image in enumerate(data[0].images(case)):
      images[index == 0].add(image.tobytes())
  for step in range(40):
    batch = batches.batch(step)
    found = _keys(batch)
    assert set(found['labeled', 0]) <= images[True]
    assert set(found['unlabeled', 0]) <= images[False]
    assert batch['labeled']['drawn'].all()
  assert [*_batches(heart).batch(0)['unlabeled']] == ['image', 'index']


def test_scans_of_which_some_classes_were_drawn_teach_as_both(heart):
  cases, data = _partly_drawn(heart, lambda case: {'drawn': [2]})
  batches = _batches(data, labelable=LABELABLE)
  assert batches.consistent.all()
  images = {x.tobytes() for case in cases for x in data[0].images(case)}
  seen = {'labeled': set(), 'unlabeled': set()}
  for step in range(40):
    batch = batches.batch(step)
    for kind, found in seen.items():
      found |= {*_keys(batch)[kind, 0]}
    expected = np.arange(len(HEART.classes)) == 2
    for group in batch.values():
      assert set(np.unique(group['label'][0])) <= {0, 2}
      np.testing.assert_array_equal(group['drawn'][0], [expected] * 4)
    # Of MR all, or nothing at all is known.
    assert batch['labeled']['drawn'][1].all()
    assert not batch['unlabeled']['drawn'][1].any()
    assert not batch['unlabeled']['label'][1].any()
  assert seen == {'labeled': images, 'unlabeled': images}
  # Where CT's labels can have no other class, nothing is left open.
  only = LABELABLE.copy()
  only[0] = np.arange(len(HEART.classes)) <= 0
  only[0, 2] = True
  batches = _batches(data, labelable=only)
  np.testing.assert_array_equal(batches.consistent, [False, True])
  with pytest.raises(ValueError, match='say what they can contain'):
    _batches(data)


def test_unlabelled_sources_never_ask_for_a_label(heart, monkeypatch):
  prepared, split = heart
  asked = []

  def spy(original):
    def ask(self, case, *index):
      asked.append(case.name)
      return original(self, case, *index)

    return ask

  for name in ('label', 'labels', 'native_labels'):
    monkeypatch.setattr(
      preparation.Prepared, name, spy(getattr(preparation.Prepared, name))
    )
  for limit in (1.0, 0.0):
    _batches(heart, memory_limit_gib=limit).batch(0)
  scans.present_classes(prepared, split, NAMES, len(HEART.classes))
  hidden = {n for parts in split.values() for n in parts['unlabeled']}
  assert asked and not hidden & set(asked)


def test_present_classes_are_those_of_the_labelled_scans(heart, monkeypatch):
  prepared, split = heart
  only = {0, 1, 5}
  labels = preparation.Prepared.labels
  monkeypatch.setattr(
    preparation.Prepared,
    'labels',
    lambda self, case: np.where(
      np.isin(labels(self, case), list(only)), labels(self, case), 0
    ),
  )
  found = scans.present_classes(prepared, split, NAMES, 8)
  expected = np.isin(np.arange(8), list(only))
  np.testing.assert_array_equal(found, [expected, expected])


def test_whole_scans_are_samples_where_a_depth_is_given(heart):
  """The same scans in the same parts; the unlabelled without a label."""
  prepared, split = heart
  batches = _batches(heart, depth=8, batch_size=2, own=range(2))
  batch = batches.batch(0)
  assert batch['labeled']['image'].shape == (2, 2, 8, 32, 32)
  assert batch['labeled']['label'].shape == (2, 2, 8, 32, 32)
  assert set(batch['unlabeled']) == {'image', 'index'}
  by_name = {case.name: case for case in prepared.cases}
  for kind in ('labeled', 'unlabeled'):
    for k, name in enumerate(NAMES):
      known = [
        resample(prepared.images(by_name[case]), 8)
        for case in split[name][kind]
      ]
      for step in range(3):
        for image in batches.batch(step)[kind]['image'][k]:
          assert any(np.array_equal(image, volume) for volume in known)
  mine = _batches(heart, depth=8, batch_size=2, own=range(1, 2)).batch(5)
  whole = batches.batch(5)
  for kind in whole:
    for name, value in mine[kind].items():
      np.testing.assert_array_equal(value, whole[kind][name][:, 1:])
