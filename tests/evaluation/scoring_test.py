import csv
import json

import masks
import numpy as np
import pytest

from dbdc_jax.evaluation import scoring

CLASSES = ('background', 'a', 'b', 'c')


def _case(name, modality, prediction, reference):
  return {
    'case': name,
    'patient': name,
    'modality': modality,
    'native': scoring.score(
      prediction, reference, (2, 1, 1), CLASSES, scoring.NATIVE
    ),
    'prepared': scoring.score(
      prediction, reference, (1, 1, 1), CLASSES, scoring.PREPARED
    ),
  }


def _results():
  reference = np.zeros((4, 8, 8), np.uint8)
  reference[1:3, 1:4, 1:4] = 1
  reference[1:3, 5:7, 5:7] = 2
  missed = np.where(reference == 2, 0, reference)
  cases = [
    _case('x', 'ct', reference, reference),
    _case('y', 'ct', missed, reference),
    _case('z', 'mr', reference, reference),
  ]
  return scoring.summarize(cases, CLASSES, ('ct', 'mr'), {'seed': 0})


def test_means_are_over_cases_then_classes_then_modalities():
  results = _results()
  ct = results['modalities']['ct']['native_grid']
  assert ct['classes']['a']['dice'] == 100
  assert ct['classes']['b']['dice'] == 50
  assert ct['classes']['c']['dice'] is None
  assert ct['mean']['dice'] == 75
  assert results['mean']['native_grid']['dice'] == pytest.approx(87.5)


def test_empty_masks_are_counted():
  ct = _results()['modalities']['ct']['native_grid']['classes']
  assert ct['b']['one_empty'] == 1 and ct['b']['cases'] == 2
  assert ct['c']['both_empty'] == 2 and ct['c']['cases'] == 0
  diagonal = np.linalg.norm([8, 8, 8])
  assert ct['b']['hd95'] == pytest.approx(diagonal / 2)


def test_files_hold_every_number_with_its_definition(tmp_path):
  results = _results()
  scoring.write_results(results, tmp_path)
  assert json.loads((tmp_path / 'results.json').read_text()) == results
  for entry in results['definitions'].values():
    assert entry['definition'] and entry['unit'] and entry['empty']
  with (tmp_path / 'results.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 3 * 3 * (4 + 3)
  assert {row['unit'] for row in rows} == {'percent', 'mm', 'voxel'}
  assert len(list(tmp_path.iterdir())) == 2


def test_table_shows_both_headlines():
  text = scoring.table(_results())
  assert 'DSC (%)' in text and 'HD95 (mm)' in text and '87.50' in text


def test_other_grids_are_refused():
  with pytest.raises(ValueError, match='same grid'):
    a, b = np.zeros((2, 3, 3)), np.zeros((2, 3, 4))
    scoring.score(a, b, (1, 1, 1), CLASSES, scoring.PREPARED)


@pytest.mark.parametrize('spacing', [(0.7, 0.7, 0.7), (2.0, 1.0, 0.5)])
def test_any_metrics_can_be_asked_for(spacing):
  rng = np.random.default_rng(0)
  p, r = rng.integers(0, 3, (2, 5, 6, 7)).astype(np.uint8)
  names = ('volume_prediction', 'hd95', 'hd95_union_voxel', 'nsd')
  found = scoring.score(p, r, spacing, CLASSES, names, tolerance=0.5)
  # In voxels, whether scaled from millimetres or computed anew.
  union = masks.compare(p == 1, r == 1, (1, 1, 1))['hd95_union']
  volume = (p == 1).sum() * np.prod(spacing) / 1000
  assert found['a'] == pytest.approx(
    {
      'empty': '',
      'volume_prediction': volume,
      'hd95': masks.compare(p == 1, r == 1, spacing)['hd95'],
      'hd95_union_voxel': union,
      'nsd': 100 * masks.compare(p == 1, r == 1, spacing, 0.5)['nsd'],
    }
  )
  nothing = dict.fromkeys(names) | {'empty': 'both empty'}
  assert found['c'] == nothing | {'volume_prediction': 0}
