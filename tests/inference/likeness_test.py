import numpy as np

from data.preprocessing import appearance
from dbdc_jax.inference.likeness import Likeness

SPREADS = np.array([feature.spread for feature in appearance.FEATURES])
WIDTH = len(SPREADS)


def _looks(seed, count, scale=1.0):
  rng = np.random.default_rng(seed)
  return 0.4 + scale * SPREADS * rng.normal(size=(count, WIDTH))


def _chances(known, asked):
  likeness = Likeness(known, range(len(known)))
  return np.array([likeness.chance(look) for look in asked])


def test_chances_of_unknown_scans_are_what_they_say():
  """With few known scans and many, also where the spread is not as supposed."""
  for count, scale in ((4, 1.0), (14, 1.0), (14, 0.5), (30, 1.5)):
    found = np.concatenate(
      [
        _chances(_looks(seed, count, scale), _looks(1000 + seed, 20, scale))
        for seed in range(30)
      ]
    )
    # At most a few percent of a modality's own scans look too unusual.
    assert np.mean(found < 0.015) < 0.05
    assert 0.3 < np.median(found) < 0.75


def test_a_scan_far_off_has_no_chance():
  known = _looks(0, 10)
  shifts = [known.mean(0) + step * SPREADS for step in (0, 1, 2, 4)]
  found = _chances(known, shifts)
  assert (np.diff(found) < 0).all()
  assert found[0] > 0.9 and found[-1] < 1e-3


def test_how_numbers_go_together_is_learnt():
  """Off across what goes together is further than off along it."""
  rng = np.random.default_rng(0)
  known = _looks(1, 40, 0.2)
  known[:, :2] = 0.4 + SPREADS[:2] * rng.normal(size=(40, 1))
  along, across = known.mean(0), known.mean(0)
  along[:2] += SPREADS[:2]
  across[:2] += SPREADS[:2] * [1, -1]
  likeness = Likeness(known, range(40))
  assert likeness.distance(across) > 1.5 * likeness.distance(along)


def test_each_distance_is_from_scans_of_other_patients():
  known = _looks(0, 6)
  patients = [0, 0, 1, 2, 2, 3]
  found = Likeness(known, patients)
  for index, who in enumerate(patients):
    rest = [i for i, other in enumerate(patients) if other != who]
    alone = Likeness(known[rest], [patients[i] for i in rest])
    np.testing.assert_allclose(
      found.distances[index], alone.distance(known[index]), rtol=1e-12
    )


def test_scans_of_one_patient_leave_what_is_supposed():
  """Their likeness to each other says nothing of other people."""
  look = _looks(0, 1)[0]
  for count in (1, 5):
    one = Likeness([look] * count, [3] * count)
    assert one.distances.size == 0
    assert one.chance(look) > 0.9
    assert one.chance(look + 4 * SPREADS) < 0.01


def test_fewer_patients_draw_a_wider_bound():
  few, many = (_looks(0, count) for count in (3, 40))
  off = 2 * SPREADS
  assert _chances(few, [few.mean(0) + off]) > _chances(
    many, [many.mean(0) + off]
  )
