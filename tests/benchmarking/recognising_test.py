import numpy as np
import pytest

from data.phantoms import phantom
from data.preprocessing import appearance
from data.task import ABDOMEN, HEART, Scan
from dbdc_jax import benchmark
from dbdc_jax.benchmarking import recognising
from dbdc_jax.inference.recognition import Fit

SPREADS = np.array([feature.spread for feature in appearance.FEATURES])


def _samples(centres, count):
  """Modality -> where its scans lie: as many people, a scan each."""
  rng = np.random.default_rng(0)
  out = []
  for name, centre in centres.items():
    for person in range(count):
      look = (centre + rng.normal(size=len(SPREADS))) * SPREADS
      found = {'look': look.tolist(), 'hounsfield': name == 'ct'}
      signs = dict.fromkeys(centres, found)
      out.append(recognising._Sample(name, f'{name}{person}', signs))
  return out


def test_each_scan_is_told_once_by_each_run_that_does_not_know_it(monkeypatch):
  samples = _samples({'ct': 0, 'mr': 8}, 10)
  asked = []
  know = recognising.recognition.know

  def remember(modality, scans):
    asked.append((modality.name, [tuple(s['look']) for s in scans]))
    return know(modality, scans)

  monkeypatch.setattr(recognising.recognition, 'know', remember)
  told = list(
    recognising.cross_validate(HEART.modalities, samples, samples, None)
  )
  runs = [('ct',), ('mr',), ('ct', 'mr')]
  assert [t.run for t in told].count(runs[0]) == 20
  assert len(told) == 3 * 20 and {t.run for t in told} == set(runs)
  # Five folds; the scans that a fold knows are those that it does not ask of.
  assert len(asked) == 2 * 5
  for name in ('ct', 'mr'):
    mine = {tuple(s.signs[name]['look']) for s in samples if s.modality == name}
    left = [mine - set(looks) for other, looks in asked if other == name]
    assert sum(map(len, left)) == len(mine) == len(set().union(*left))
  for answer in told:
    assert answer.fit.modality == (None if answer.foreign else answer.modality)


def test_the_table_counts_what_became_of_scans():
  fit = lambda name, sure: Fit(name, sure, {}, {})
  told = [
    recognising.Told(('ct',), 'ct', fit('ct', 1.0)),
    recognising.Told(('ct',), 'ct', fit('ct', 0.9)),
    recognising.Told(('ct',), 'ct', fit(None, 0.2)),
    recognising.Told(('ct',), 'mr', fit(None, 0.1)),
    recognising.Told(('ct',), 'mr', fit('ct', 0.8)),
    recognising.Told(('ct', 'mr'), 'mr', fit('ct', 0.9)),
  ]
  found = {'as they are': told, 'padded': told[:1]}
  head, alone, both, every, padded, *_ = recognising.table(found).splitlines()
  wanted = 'run own right wrong declined foreign declined sure true'
  assert ' '.join(head.split()) == wanted
  # Exact interval of 1 in 3: 0.8 to 90.6 %; of 1 in 2: 1.3 to 98.7 %.
  wanted = 'ct 3 2 0 33.3 % (0.8-90.6) 2 50.0 % (1.3-98.7) 0.900 0.667'
  assert ' '.join(alone.split()) == wanted
  assert both.split()[:5] == ['ct,', 'mr', '1', '0', '1']
  assert every.startswith('all, as they are') and '  4     2     1' in every
  assert padded.startswith('all, padded') and padded.endswith('1.000   1.000')
  rows = recognising.rows(found)
  assert len(rows) == 7 and rows[0]['taken_for'] == 'ct'


def _scan():
  rng = np.random.default_rng(0)
  image = rng.normal(100, 20, (40, 32, 10)).astype(np.float32)
  return Scan(image, None, np.diag([1.5, 1.5, 6.0, 1.0]))


@pytest.mark.parametrize(
  ('title', 'shape'),
  [
    ('half of it', (20, 32, 10)),
    ('a fifth narrower', (32, 26, 8)),
    ('padded', (50, 40, 10)),
    ('coarser', (25, 20, 10)),
    ('in 8 bits', (40, 32, 10)),
  ],
)
def test_changes_leave_a_scan_of_the_same_person(title, shape):
  scan = _scan()
  changed = recognising.CHANGES[title](scan)
  assert changed.image.shape == shape
  if title == 'in 8 bits':
    assert set(np.unique(changed.image)) <= set(range(256))
    assert np.corrcoef(changed.image.ravel(), scan.image.ravel())[0, 1] > 0.99
  if title == 'coarser':
    extent = lambda s: s.affine[:3, :3] @ s.image.shape
    np.testing.assert_allclose(extent(changed), extent(scan))
    assert abs(changed.image.mean() - scan.image.mean()) < 1
  if title == 'padded':
    assert (changed.image[5:-5, 4:-4] == scan.image).all()
    assert changed.image[:5].max() == scan.image.min()


def test_archives_lie_in_a_folder_or_are_a_phantoms(monkeypatch, tmp_path):
  wanted = {'btcv': str(tmp_path / 'btcv'), 'chaos': str(tmp_path / 'chaos')}
  assert recognising.roots(ABDOMEN, 'ct,t2', str(tmp_path), '') == wanted
  written = []
  monkeypatch.setattr(
    phantom,
    'write',
    lambda task, out, **settings: written.append((task, out.parent)),
  )
  recognising.roots(HEART, '', None, str(tmp_path))
  assert written == [('heart', tmp_path)]


def test_the_command_prints_the_table(monkeypatch, capsys, tmp_path):
  samples = _samples({'ct': 0, 't2': 8}, 10)
  monkeypatch.setattr(recognising, '_samples', lambda *_: samples)
  argv = ['--recognition', 'abdomen:ct,t2', '--scans', str(tmp_path)]
  assert benchmark.main(argv) == 0
  assert 'all, as they are' in capsys.readouterr().out
  with pytest.raises(SystemExit):
    benchmark.main(['--recognition', 'knee'])
  assert 'choose heart or abdomen' in capsys.readouterr().err
