import itertools

import numpy as np
import pytest

from dbdc_jax.experiments import comparison


def _cases(values):
  """(seed, modality, patient) -> Dice of one class, as results hold it."""
  return {
    (seed, modality, f'{patient}_{modality}'): {
      'patient': patient,
      'native': {'liver': {'dice': dice, 'hd95': 1.0}},
    }
    for (seed, modality, patient), dice in values.items()
  }


def test_a_constant_gain_has_an_interval_of_no_width():
  keys = [(s, m, p) for s in (0, 1) for m in ('ct', 't2') for p in 'abc']
  base = {key: 50.0 + 7 * i for i, key in enumerate(keys)}
  more = {key: value + 3.0 for key, value in base.items()}
  rows = comparison.differences(_cases(more), _cases(base), 'dice')
  found = comparison.paired(rows)
  np.testing.assert_allclose(
    [found['mean'], found['low'], found['high']], 3.0, rtol=1e-12
  )
  assert (found['patients'], found['scans']) == (3, 12)


def test_pairing_takes_only_what_both_have_a_value_of():
  mine = _cases({(0, 'ct', 'a'): 60.0, (0, 'ct', 'b'): 90.0})
  other = _cases({(0, 'ct', 'a'): 50.0, (1, 'ct', 'b'): 10.0})
  rows = comparison.differences(mine, other, 'dice')
  assert rows == [(0, 'a', 'ct', 10.0)]
  mine[0, 'ct', 'a_ct']['native']['spleen'] = {'dice': 10.0, 'hd95': 1.0}
  other[0, 'ct', 'a_ct']['native']['spleen'] = {'dice': None, 'hd95': None}
  assert comparison.differences(mine, other, 'dice') == rows
  other[0, 'ct', 'a_ct']['native']['liver']['dice'] = None
  assert comparison.paired(comparison.differences(mine, other, 'dice')) is None


def test_one_patient_has_no_interval():
  found = comparison.paired([(0, 'a', 'ct', 1.0), (1, 'a', 'ct', 2.0)])
  assert (found['mean'], found['low'], found['high']) == (1.5, None, None)


def test_modalities_count_alike_however_many_patients_they_have():
  rows = [(0, f'c{i}', 'ct', 1.0) for i in range(8)]
  rows += [(0, 'm0', 'mr', 3.0), (0, 'm1', 'mr', 3.0)]
  assert comparison.paired(rows)['mean'] == 2.0


def _every_draw(rows):
  """Mean difference of every draw of seeds and patients, each as likely.

  None where the drawn seeds have no scan of a modality.
  """
  groups = {}
  for patient in sorted({p for _, p, _, _ in rows}):
    has = tuple(sorted({m for _, p, m, _ in rows if p == patient}))
    groups.setdefault(has, []).append(patient)
  seeds = sorted({s for s, *_ in rows})
  draws = [itertools.product(g, repeat=len(g)) for g in groups.values()]
  out = []
  for drawn_seeds, *parts in itertools.product(
    itertools.product(seeds, repeat=len(seeds)), *draws
  ):
    means = []
    for modality in sorted({m for _, _, m, _ in rows}):
      values, weights = [], []
      for patient in (patient for part in parts for patient in part):
        mine = [(s, v) for s, q, m, v in rows if (q, m) == (patient, modality)]
        drawn = [v for seed in drawn_seeds for s, v in mine if s == seed]
        if drawn:
          of = {s for s, _ in mine}
          times = sum(seed in of for seed in drawn_seeds)
          values.append(np.mean(drawn))
          weights.append(times / len(of))
      if values:
        means.append(np.average(values, weights=weights))
      else:
        means.append(np.nan)
    out.append(np.mean(means))
  return np.array(out)


@pytest.mark.parametrize('seeds', [(0,), (0, 1)])
def test_the_interval_is_that_of_every_draw_there_is(seeds):
  """Patients with several modalities and scans go in and out as a whole.

  2.5 % of all draws lie beyond either end, up to the error of the 10,000 that
  are drawn: 0.6 % is four standard deviations of it.
  """
  rng = np.random.default_rng(0)
  rows = [
    (s, p, m, float(rng.normal(2, 4)))
    for p in 'abc'
    for m in ('t1', 't2')
    for s in seeds
    for _ in range(2)
  ]
  rows += [(s, p, 'ct', float(rng.normal(-1, 4))) for p in 'xyz' for s in seeds]
  found = comparison.paired(rows)
  exact = _every_draw(rows)
  for end, share in (('low', 0.025), ('high', 0.975)):
    least, most = np.nanquantile(exact, [share - 0.006, share + 0.006])
    assert least <= found[end] <= most, (end, least, found[end], most)


def test_patients_of_one_seed_count_as_often_as_it_is_drawn():
  """Folds: each seed tests patients of its own."""
  rng = np.random.default_rng(1)
  rows = [
    (seed, f'{p}{seed}', 'ct', float(rng.normal(gain, 1)))
    for seed, gain in enumerate((0, 4))
    for p in 'ab'
  ]
  rows += [(seed, 'c', 'ct', float(rng.normal(2, 1))) for seed in (0, 1)]
  found, exact = comparison.paired(rows), _every_draw(rows)
  for end, share in (('low', 0.025), ('high', 0.975)):
    least, most = np.nanquantile(exact, [share - 0.006, share + 0.006])
    assert least <= found[end] <= most, (end, least, found[end], most)


def test_what_differs_by_seed_alone_is_in_the_interval():
  """Patients that agree leave the seeds' spread; a bootstrap of patients 0."""
  rows = [
    (seed, p, 'ct', float(gain))
    for seed, gain in enumerate((1, -1, 3, -3))
    for p in 'abcd'
  ]
  found = comparison.paired(rows)
  assert found['mean'] == 0 and found['seeds'] == 4
  assert found['low'] <= -1.5 and found['high'] >= 1.5


def test_a_draw_without_a_modality_is_none():
  """The one seed that tested MR is not drawn in 8 of 27 draws."""
  rows = [(s, f'p{s}{i}', 'ct', 2.0) for s in range(3) for i in range(3)]
  rows += [(0, f'q{i}', 'mr', 4.0) for i in range(2)]
  found = comparison.paired(rows)
  assert found['mean'] == found['low'] == found['high'] == 3


def test_the_same_rows_give_the_same_interval():
  rows = [(0, 'a', 'ct', 1.0), (0, 'b', 'ct', 4.0), (0, 'c', 'ct', -2.0)]
  assert comparison.paired(rows) == comparison.paired(rows[::-1])


@pytest.mark.parametrize('metric', ['dice', 'hd95'])
def test_swapping_the_rows_turns_the_sign(metric):
  rng = np.random.default_rng(0)
  keys = [(0, 'ct', p) for p in 'abcde']
  one, two = (_cases({k: rng.uniform(0, 99) for k in keys}) for _ in range(2))
  there = comparison.paired(comparison.differences(one, two, metric))
  back = comparison.paired(comparison.differences(two, one, metric))
  np.testing.assert_allclose(there['mean'], -back['mean'])
  np.testing.assert_allclose(there['low'], -back['high'], atol=1e-9)


def test_the_share_of_a_gap_and_its_ends():
  """A row midway between the bounds closes half, whatever the draw."""
  keys = [(s, m, p) for s in (0, 1) for m in ('ct', 't2') for p in 'abcd']
  rng = np.random.default_rng(0)
  low = {key: float(rng.uniform(40, 60)) for key in keys}
  high = {key: value + float(rng.uniform(5, 30)) for key, value in low.items()}
  midway = {key: (low[key] + high[key]) / 2 for key in keys}
  lower, upper = _cases(low), _cases(high)
  for row, share in ((midway, 50.0), (low, 0.0), (high, 100.0)):
    found = comparison.share(_cases(row), lower, upper)
    np.testing.assert_allclose(
      [found['mean'], found['low'], found['high']], share, atol=1e-9
    )
  # Each draw has a gap of its own: a gain that is the same everywhere is a
  # larger share where the gap is smaller.
  found = comparison.share(
    _cases({key: value + 5.0 for key, value in low.items()}), lower, upper
  )
  gap = np.mean([high[key] - low[key] for key in keys])
  np.testing.assert_allclose(found['mean'], 100 * 5 / gap)
  assert found['low'] < found['mean'] < found['high']
  # Of the scans that all three have.
  del lower[0, 'ct', 'a_ct']
  assert comparison.share(_cases(midway), lower, upper)['scans'] == 15
  assert comparison.share(_cases(midway), lower, lower) is None
  assert comparison.share(_cases(midway), {}, upper) is None
