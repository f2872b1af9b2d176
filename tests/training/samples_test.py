import threading

from fake_scans import Case, Scans
import numpy as np
import pytest

from data.cache import builder
from data.cache.whole_scans import resample, resample_labels
from dbdc_jax.training.samples import Samples

SIDE = 6


LABELED = [Case('a', 3, SIDE), Case('b', 2, SIDE)]
UNLABELED = [Case('c', 4, SIDE), Case('d', 1, SIDE)]
# Bytes of a labelled and of an unlabelled slice.
BOTH, IMAGE = 3 * SIDE**2, 2 * SIDE**2


@pytest.fixture
def scans():
  return Scans(LABELED + UNLABELED, 5)


@pytest.mark.parametrize(
  ('limit', 'kept'),
  [
    (0, 0),
    (3 * BOTH - 1, 0),
    (3 * BOTH, 3),
    (5 * BOTH + 4 * IMAGE - 1, 5),
    (5 * BOTH + 4 * IMAGE, 9),
    (1e9, 10),
  ],
)
@pytest.mark.parametrize('depth', [None, 5])
def test_rows_are_the_cases_samples_whatever_fits(scans, limit, kept, depth):
  if depth:
    # Each case is one sample of 5 slices.
    limit = limit and [4 * BOTH, 5 * BOTH, 10 * BOTH + 5 * IMAGE, 1e9][kept % 4]
  made = Samples(scans, LABELED, UNLABELED, depth=depth, limit=limit)
  if depth is None:
    assert (made.in_memory, len(made)) == (kept, 10)
  else:
    assert len(made) == 4
  before = len(scans.asked)
  assert made.complete == (made.in_memory == len(made))
  bytes_of_a_sample = (depth or 1) * SIDE**2
  in_labeled = min(made.in_memory, 2 if depth else 5)
  # And a label of background.
  assert made.nbytes == bytes_of_a_sample * (
    2 * made.in_memory + in_labeled + 1
  )
  for case in LABELED + UNLABELED:
    rows = made.rows([case])
    images = scans._images[case.name]
    labels = scans._labels[case.name]
    if depth:
      images = resample(images, depth)[None]
      labels = resample_labels(labels, depth)[None]
    np.testing.assert_array_equal(made.images(rows), images)
    if case in LABELED:
      np.testing.assert_array_equal(made.labels(rows + 1), labels)
  # Rows of any shape, also some in memory and some not.
  grid = np.arange(len(made)).reshape(2, -1)[:, ::-1]
  mixed = made.images(grid)
  assert mixed.shape[:2] == grid.shape
  np.testing.assert_array_equal(mixed[0, -1], made.images(np.array([0]))[0])
  assert not made.labels(np.zeros(2, int)).any()
  if made.in_memory == len(made):
    assert len(scans.asked) == before
  assert not {('label', 'c'), ('label', 'd')} & set(scans.asked)


def test_released_samples_are_decoded_again(scans):
  made = Samples(scans, LABELED, UNLABELED, depth=None, limit=1e9)
  rows = made.rows(LABELED + UNLABELED)
  images, labels = made.images(rows), made.labels(rows[:5] + 1)
  before = len(scans.asked)
  tables = made.release()
  np.testing.assert_array_equal(tables['image'], images)
  np.testing.assert_array_equal(tables['label'][1:], labels)
  assert not made.complete and made.nbytes < tables['label'][:1].nbytes + 1
  np.testing.assert_array_equal(made.images(rows), images)
  np.testing.assert_array_equal(made.labels(rows[:5] + 1), labels)
  assert len(scans.asked) == before + 15


def test_rows_of_several_cases_follow_each_other(scans):
  made = Samples(scans, LABELED, UNLABELED, depth=None, limit=1e9)
  rows = made.rows([LABELED[1], UNLABELED[1], LABELED[0]])
  assert rows.tolist() == [3, 4, 9, 0, 1, 2]
  assert rows.dtype == np.int32


def test_one_array_of_a_record_is_that_of_the_whole(tmp_path):
  """TFDS's own reading is the reference; threads open and read at once."""
  rng = np.random.default_rng(0)

  def records(count):
    for i in range(count):
      yield {
        'image': rng.integers(0, 65536, (SIDE, SIDE)).astype(np.uint16),
        'label': rng.integers(0, 9, (SIDE, SIDE)).astype(np.uint8),
        'native_label': rng.integers(0, 9, (4 + i, 3)).astype(np.uint8),
        'case': f'case {i}',
        'patient': 'p',
        'modality': 'ct',
        'slice': i,
      }

  builder.write(str(tmp_path), SIDE, {'ct': records(7)})
  found = builder.Records(str(tmp_path), 'ct')
  wrong = []

  def read(index):
    whole = found._whole[index]
    for name in ('image', 'label', 'native_label'):
      array = found.array(index, name)
      same = np.array_equal(array, whole[name])
      if not same or array.dtype != whole[name].dtype:
        wrong.append((index, name))

  threads = [threading.Thread(target=read, args=(i,)) for i in range(7)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not wrong


def test_slices_on_which_nobody_drew_are_apart():
  cases = [Case('a', 4, SIDE, undrawn=[0, 2]), Case('b', 2, SIDE)]
  made = Samples(
    Scans([*cases, *UNLABELED], 5), cases, UNLABELED, depth=None, limit=1e9
  )
  assert made.rows(cases).tolist() == [0, 1, 2, 3, 4, 5]
  drawn = lambda case: case.drawn_slices
  left = lambda case: case.open_slices(np.ones(3, bool))
  assert made.rows(cases, drawn).tolist() == [1, 3, 4, 5]
  assert made.rows(cases, left).tolist() == [0, 2]
  assert made.rows([], left).tolist() == []
  whole = Samples(
    Scans([*cases, *UNLABELED], 5), cases, UNLABELED, depth=5, limit=1e9
  )
  assert whole.rows(cases, drawn).tolist() == [0, 1]
  assert whole.rows(cases, left).tolist() == [0]


def test_each_row_knows_what_was_drawn():
  """The background's entry says whether everything was that there is."""
  cases = [
    Case('a', 2, SIDE, drawn=[1]),
    Case('b', 1, SIDE, drawn=[1, 3]),
    Case('e', 1, SIDE),
  ]
  made = Samples(
    Scans([*cases, *UNLABELED], 5), cases, UNLABELED, depth=None, limit=1e9
  )
  labelable = np.array([[True, True, False, True]] * 3)
  found = made.drawn_for(cases, labelable).astype(int).tolist()
  assert found[:4] == [[0, 1, 0, 0]] * 2 + [[1, 1, 0, 1]] + [[1, 1, 1, 1]]
  assert not np.any(found[4:])
