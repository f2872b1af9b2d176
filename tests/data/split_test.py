import json

import pytest

from data import split
from data.cache.prepared import PreparedCase


def _case(name, patient, modality, labeled=True, content=None):
  return PreparedCase(
    name=name,
    patient=patient,
    modality=modality,
    labeled=labeled,
    num_slices=1,
    offset=0,
    geometry={},
    spacing=(1.0, 1.0, 1.0),
    mm_per_pixel=1.0,
    voxels_per_class=[],
    content=content or name,
  )


def _cases():
  ct = [_case(f'ct{i}', f'b{i}', 'ct') for i in range(20)]
  mr = [_case(f'{m}{i}', f'c{i}', m) for m in ('t1', 't2') for i in range(14)]
  return ct + mr


def _sizes(parts):
  return [len(parts[part]) for part in split.PARTS]


def _make(cases=None, seed=0, fold=0, labeled_fraction=0.2):
  return split.make(
    cases or _cases(), seed=seed, fold=fold, labeled_fraction=labeled_fraction
  )


def test_shares_are_the_papers():
  found = _make()
  assert _sizes(found['ct']) == [3, 11, 2, 4]
  assert _sizes(found['t1']) == _sizes(found['t2']) == [2, 8, 1, 3]
  assert _sizes(_make(labeled_fraction=1.0)['ct']) == [14, 0, 2, 4]


def test_shares_may_be_others():
  """14 of 40 patients train, 3 of them labelled; folds still turn them."""
  cases = [_case(f'ct{i}', f'b{i}', 'ct') for i in range(40)]
  make = lambda fold: split.make(
    cases, seed=1, fold=fold, labeled_fraction=0.2, shares=(35, 15, 50)
  )['ct']
  assert _sizes(make(0)) == [3, 11, 6, 20]
  assert make(0)['test'] != make(1)['test']
  thirds = split.make(
    cases, seed=0, fold=0, labeled_fraction=1.0, shares=(33.4, 33.3, 33.3)
  )
  assert _sizes(thirds['ct']) == [14, 0, 13, 13]
  for shares in ((70, 10), (70, 10, 30), (90, 10, 0)):
    with pytest.raises(ValueError, match='give three above 0 that make 100'):
      split.make(cases, seed=0, fold=0, labeled_fraction=1.0, shares=shares)


def test_a_patient_is_on_one_side_in_every_modality():
  for seed in range(5):
    found = _make(seed=seed)
    split.check(found, _cases())
    for part in split.PARTS:
      numbers = [{n[2:] for n in found[m][part]} for m in ('t1', 't2')]
      assert numbers[0] == numbers[1]


def test_folds_have_disjoint_test_patients():
  for modality, count in (('ct', 20), ('t2', 14)):
    tests = [_make(fold=fold)[modality]['test'] for fold in range(5)]
    assert len(set().union(*tests)) == sum(map(len, tests)) == count
  with pytest.raises(ValueError, match='choose 0 to 4'):
    _make(fold=5)


def test_seed_decides_and_order_of_cases_does_not():
  assert _make(seed=1) != _make(seed=2)
  backwards = _make(_cases()[::-1])
  for modality, parts in _make().items():
    for part, names in parts.items():
      assert set(backwards[modality][part]) == set(names)


def test_scans_without_labels_only_join_the_unlabelled():
  more = [_case('x1', 'x1', 'ct', labeled=False)]
  found = _make(_cases() + more)
  assert 'x1' in found['ct']['unlabeled']
  assert _sizes(found['ct']) == [3, 12, 2, 4]


def test_identical_content_or_patient_on_two_sides_is_an_error():
  cases = _cases()
  found = _make(cases)
  test, train = found['ct']['test'][0], found['ct']['unlabeled'][0]
  twin = [
    _case(
      c.name, c.patient, c.modality, content=test if c.name == train else ''
    )
    for c in cases
  ]
  with pytest.raises(ValueError, match='voxel content'):
    split.check(found, twin)
  found['ct']['validation'].append(test)
  with pytest.raises(ValueError, match='patient'):
    split.check(found, cases)


def test_saved_splits_come_back_and_others_are_refused(tmp_path):
  path = tmp_path / 'split.json'
  split.save(_make(), str(path))
  assert split.load(str(path), _cases()) == _make()
  with pytest.raises(ValueError, match='no such scans'):
    split.load(str(path), _cases()[1:])
  path.write_text(json.dumps({'ct': {}}))
  with pytest.raises(ValueError, match='must list'):
    split.load(str(path), _cases())
  path.write_text('{')
  with pytest.raises(ValueError, match='not a readable'):
    split.load(str(path), _cases())


@pytest.mark.parametrize('fraction', [0.0, 1.5])
def test_impossible_requests(fraction):
  with pytest.raises(ValueError, match='labeled_fraction'):
    _make(labeled_fraction=fraction)
  with pytest.raises(ValueError, match='too few'):
    _make(_cases()[:2])
