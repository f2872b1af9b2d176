import json

import numpy as np
import pytest

from data import task_file
from data.task import ABDOMEN, HEART

OWN = {
  'slice_size': 64,
  'modalities': {
    'ct': {
      'labels': {'liver': 6, 'spleen': [1, 11], 'background': [2, 3]},
      'intensity': {'window': [-125, 275]},
    },
    't2': {'labels': {'liver': 63}, 'mm_per_pixel': 1.5},
  },
}


@pytest.mark.parametrize('task', [HEART, ABDOMEN])
def test_a_task_comes_back_from_its_file(task, tmp_path):
  path = tmp_path / 'task.json'
  task_file.write(task_file.to_dict(task), path)
  assert task_file.find(str(path)) == task
  assert task_file.find(task.name) is task
  for before, after in zip(
    task.modalities, task_file.find(str(path)).modalities, strict=True
  ):
    assert before.written_codes() == after.written_codes()


def test_a_users_file_has_defaults_and_partial_labels():
  task = task_file.from_dict(OWN, 'mine')
  assert (task.name, task.roi) == ('mine', 'none')
  assert task.classes == ('background', 'liver', 'spleen')
  ct, t2 = task.modalities
  assert ct.codes == {0: 0, 6: 1, 1: 2, 11: 2, 2: 0, 3: 0}
  assert ct.written_codes() == {0: 0, 1: 6, 2: 1}
  assert (t2.source, t2.series, t2.mm_per_pixel) == ('folder', 't2', 1.5)
  np.testing.assert_array_equal(
    task.labelable(task.modalities), [[True, True, True], [True, True, False]]
  )


def _changed(path, value):
  found = json.loads(json.dumps(OWN))
  place = found
  *above, last = path
  for key in above:
    place = place[key]
  place[last] = value
  return found


@pytest.mark.parametrize(
  ('path', 'value', 'said'),
  [
    (['slices'], 3, "unknown key 'slices'"),
    (['modalities'], {}, 'at least one modality'),
    (['modalities', 'c t'], {'labels': {'liver': 1}}, 'letters, digits'),
    (['modalities', 'ct', 'window'], [0, 1], "unknown key 'window'"),
    (['modalities', 'ct', 'labels'], {}, 'each class its code'),
    (['modalities', 'ct', 'labels'], {'liver': 'six'}, 'whole numbers'),
    (['modalities', 'ct', 'labels'], {'liver': True}, 'whole numbers'),
    (['modalities', 'ct', 'labels'], {'a': 1, 'b': 1}, 'code 1 means a and b'),
    (['modalities', 'ct', 'labels'], {'a': 0}, 'code 0 means background'),
    (['modalities', 'ct', 'intensity'], {'window': [3, 3]}, 'must be .low'),
    (['modalities', 't2', 'mm_per_pixel'], -1, 'must be positive'),
    (['classes'], ['liver', 'spleen'], 'starts with background'),
    (['classes'], ['background', 'liver'], "'spleen' is not among"),
    (
      ['classes'],
      ['background', 'liver', 'spleen', 'x'],
      'no modality has a label code for x',
    ),
    (['slice_size'], 60, 'a multiple of 8'),
    (['roi'], 'box', 'choose none or label'),
    (['patients'], [], 'patients must hold'),
    (['patients'], {'ct/a': ['x']}, 'is no name'),
    (['name'], {}, 'must be a text'),
    (['classes'], ['background', ['liver']], 'must be names'),
    (['classes'], ['background', None], 'must be names'),
    (['classes'], 'liver', 'a list that starts with background'),
    (['roi'], [], 'choose none or label'),
    (['slice_size'], '64', 'a multiple of 8'),
    (['modalities'], None, 'at least one modality'),
    (['modalities', 'ct'], None, 'must hold keys and values'),
    (['modalities', 'ct', 'labels'], None, 'each class its code'),
    (['modalities', 'ct', 'labels'], {'a': None}, 'whole numbers'),
    (['modalities', 'ct', 'labels'], {'a': [[1]]}, 'whole numbers'),
    (['modalities', 'ct', 'labels'], {' ': 1}, 'must be names'),
    (['modalities', 'ct', 'labels'], {'ignore': 3}, 'no class but background'),
    (['classes'], ['background', 'liver', 'Ignore'], "'ignore' is none"),
    (['modalities', 'ct', 'drawn'], ['a'], 'classes of each case'),
    (['modalities', 'ct', 'drawn'], {'a': ['heart']}, 'one or more of'),
    (['modalities', 'ct', 'drawn'], {'a': []}, 'one or more of'),
    (['modalities', 'ct', 'drawn'], 'none.csv', 'not a readable table'),
    (['modalities', 'ct', 'sparse'], 10, 'give true, or the slices'),
    (['modalities', 'ct', 'sparse'], {'a': [-1]}, 'from 0 on'),
    (['modalities', 'ct', 'intensity'], None, 'must hold keys'),
    (['modalities', 'ct', 'intensity'], {'window': [float('nan'), 3]}, 'low'),
    (['modalities', 'ct', 'plane'], ['axial'], 'choose acquired'),
    (['modalities', 'ct', 'folder'], 3, 'folder=3 must be a text'),
    (['modalities', 'ct', 'series'], [], 'must be a text'),
    (['modalities', 'ct', 'source'], 'prepare', 'choose folder'),
  ],
)
def test_what_is_wrong_is_named(path, value, said, tmp_path):
  file = tmp_path / 'dataset.json'
  file.write_text(json.dumps(_changed(path, value)))
  with pytest.raises(ValueError, match=said) as caught:
    task_file.find(str(file))
  assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_what_editors_write_is_read(encoding, tmp_path):
  file = tmp_path / 'dataset.json'
  own = {**OWN, 'patients': {'ct/a': 7}}
  file.write_bytes(json.dumps(own).encode(encoding))
  assert task_file.find(str(file)).slice_size == 64
  assert task_file.patients(file) == {('ct', 'a'): '7'}
  assert task_file.modality_folders(file) == {'ct': 'ct', 't2': 't2'}


def test_what_is_said_twice_is_refused(tmp_path):
  file = tmp_path / 'dataset.json'
  file.write_text('{"modalities": {"ct": {"labels": {"a": 1, "a": 2}}}}')
  with pytest.raises(ValueError, match="'a' is there twice"):
    task_file.find(str(file))


def test_one_of_several_dicom_series_may_be_named():
  own = {'modalities': {'t2': {'labels': {'liver': 1}, 'series': 'T2 SPIR'}}}
  task = task_file.from_dict(own, 'x')
  assert task.modalities[0].dicom_series == 'T2 SPIR'
  assert task_file.from_dict(task_file.to_dict(task), 'x') == task


def test_no_such_task_or_file(tmp_path):
  with pytest.raises(ValueError, match='choose abdomen, heart'):
    task_file.find('lung')
  with pytest.raises(ValueError, match=r'data\.prepare --init'):
    task_file.find(str(tmp_path / 'dataset.json'))
  broken = tmp_path / 'broken.json'
  broken.write_text('{')
  with pytest.raises(ValueError, match='not readable JSON'):
    task_file.find(str(broken))


def test_a_changed_file_is_read_again(tmp_path):
  file = tmp_path / 'dataset.json'
  file.write_text(json.dumps(OWN))
  assert task_file.find(str(file)).slice_size == 64
  file.write_text(json.dumps({**OWN, 'slice_size': 128}))
  assert task_file.find(str(file)).slice_size == 128
