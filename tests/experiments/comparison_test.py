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
  assert rows == [('a', 'ct', 10.0)]
  mine[0, 'ct', 'a_ct']['native']['spleen'] = {'dice': 10.0, 'hd95': 1.0}
  other[0, 'ct', 'a_ct']['native']['spleen'] = {'dice': None, 'hd95': None}
  assert comparison.differences(mine, other, 'dice') == rows
  other[0, 'ct', 'a_ct']['native']['liver']['dice'] = None
  assert comparison.paired(comparison.differences(mine, other, 'dice')) is None


def test_one_patient_has_no_interval():
  found = comparison.paired([('a', 'ct', 1.0), ('a', 'ct', 2.0)])
  assert (found['mean'], found['low'], found['high']) == (1.5, None, None)


def test_modalities_count_alike_however_many_patients_they_have():
  rows = [(f'c{i}', 'ct', 1.0) for i in range(8)]
  rows += [('m0', 'mr', 3.0), ('m1', 'mr', 3.0)]
  assert comparison.paired(rows)['mean'] == 2.0


def _every_draw(rows):
  """Mean difference of every draw of patients there is, each as likely."""
  groups = {}
  for patient in sorted({p for p, _, _ in rows}):
    has = tuple(sorted({m for p, m, _ in rows if p == patient}))
    groups.setdefault(has, []).append(patient)
  draws = [itertools.product(g, repeat=len(g)) for g in groups.values()]
  out = []
  for parts in itertools.product(*draws):
    drawn = [patient for part in parts for patient in part]
    means = []
    for modality in sorted({m for _, m, _ in rows}):
      values = [
        np.mean([v for q, m, v in rows if q == p and m == modality])
        for p in drawn
        if any(q == p and m == modality for q, m, _ in rows)
      ]
      means.append(np.mean(values))
    out.append(np.mean(means))
  return np.array(out)


def test_the_interval_is_that_of_every_draw_there_is():
  """Patients with several modalities and seeds go in and out as a whole.

  2.5 % of all 4^4 * 3^3 draws lie beyond either end, up to the error of the
  10,000 that are drawn: 0.6 % is four standard deviations of it.
  """
  rng = np.random.default_rng(0)
  rows = [
    (p, m, float(rng.normal(2, 4)))
    for p in 'abcd'
    for m in ('t1', 't2')
    for _ in range(2)
  ]
  rows += [(p, 'ct', float(rng.normal(-1, 4))) for p in 'xyz']
  found = comparison.paired(rows)
  exact = _every_draw(rows)
  for end, share in (('low', 0.025), ('high', 0.975)):
    least, most = np.quantile(exact, [share - 0.006, share + 0.006])
    assert least <= found[end] <= most, (end, least, found[end], most)


def test_the_same_rows_give_the_same_interval():
  rows = [('a', 'ct', 1.0), ('b', 'ct', 4.0), ('c', 'ct', -2.0)]
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
