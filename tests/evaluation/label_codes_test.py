import json

import pytest

from data import task as task_module
from data import task_file
from dbdc_jax.evaluation import label_codes


def _file(tmp_path, found):
  path = tmp_path / 'dataset.json'
  path.write_text(found if isinstance(found, str) else json.dumps(found))
  return str(path)


def test_nothing_given_is_no_choice():
  assert label_codes.parse('') is None


def test_codes_with_and_without_names():
  def parse(text):
    return label_codes.parse(text).names

  assert parse('1=liver, 2=left kidney') == {1: 'liver', 2: 'left kidney'}
  assert parse('3,1') == {3: '3', 1: '1'}
  assert list(parse('3,1')) == [3, 1]
  assert parse('0=background,500=LV') == {500: 'LV'}
  assert parse('420=LA,421=LA') == {420: 'LA', 421: 'LA'}


@pytest.mark.parametrize(
  'labels',
  [
    {'background': 0, 'liver': 6, 'kidney': 2},
    {'0': 'background', '6': 'liver', '2': 'kidney'},
    {'background': 0, 'liver': [6], 'kidney': [2]},
    {'Background': [0, 1, 3], 'liver': '6', 'kidney': 2},
  ],
)
def test_every_form_of_a_description(tmp_path, labels):
  found = label_codes.parse(_file(tmp_path, {'name': 'x', 'labels': labels}))
  assert found == ({6: 'liver', 2: 'kidney'}, (), None)


def test_regions_of_several_codes_are_classes_unless_they_overlap(tmp_path):
  apart = {'heart': [1, 2], 'aorta': 3}
  found = label_codes.parse(_file(tmp_path, {'labels': apart}))
  assert found.names == {1: 'heart', 2: 'heart', 3: 'aorta'}
  nested = {'whole': [1, 2], 'core': [2]}
  with pytest.raises(ValueError, match=r"code 2 is 'whole' and 'core'"):
    label_codes.parse(_file(tmp_path, {'labels': nested}))


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('liver', "'liver' is no label code.*CODE=NAME"),
    ('1=liver,1=kidney', "code 1 is 'liver' and 'kidney'"),
    ('1=', 'code 1 has no name'),
    ('1,,2', "'' is no label code"),
    ('1.5=liver', "'1.5' is no label code"),
    ('²=liver', 'is no label code'),
    ('0', 'none but the background'),
    ('absent.json', 'absent.json: not readable JSON'),
  ],
)
def test_what_is_wrong_is_said(text, message):
  with pytest.raises(ValueError, match=message):
    label_codes.parse(text)


@pytest.mark.parametrize(
  ('found', 'message'),
  [
    ('{', 'not readable JSON'),
    ([1], 'has no "labels"'),
    ({'labels': [1]}, 'has no "labels"'),
    ({'labels': {'liver': 1.5}}, '1.5 is no label code'),
    ({'labels': {'liver': True}}, 'True is no label code'),
    ({'labels': {'background': 0, 'ignore': 2}}, 'none but the background'),
    ('{"labels": {"liver": 1, "liver": 2}}', "'liver' is there twice"),
    ('[' * 100_000, 'not readable JSON'),
    ({'modalities': {'ct': {}}}, 'has no "labels" for ct'),
    ({'labels': {'liver': 'kidney'}}, "'liver' is no label code"),
  ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, found, message):
  with pytest.raises(ValueError, match=message):
    label_codes.parse(_file(tmp_path, found))


@pytest.mark.parametrize(
  'labels', [{'liver': 1, 'ignore': 9}, {'1': 'liver', '9': 'ignore'}]
)
def test_codes_to_ignore_are_no_class(tmp_path, labels):
  found = label_codes.parse(_file(tmp_path, {'labels': labels}))
  assert (
    found == label_codes.parse('9=ignore,1=liver') == ({1: 'liver'}, (9,), None)
  )


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_any_editor_may_have_saved_the_file(tmp_path, encoding):
  path = tmp_path / 'dataset.JSON'
  text = json.dumps({'labels': {'Leber Ä': 1}}, ensure_ascii=False)
  path.write_bytes(text.encode(encoding))
  assert label_codes.parse(str(path)).names == {1: 'Leber Ä'}


def _modalities(**labels):
  return {'modalities': {name: {'labels': f} for name, f in labels.items()}}


def test_modalities_that_agree_are_one(tmp_path):
  same = {'background': [0, 7], 'a': 1, 'b': [2, 3]}
  other = {'b': [3, 2], 'a': [1], 'background': 0}
  path = _file(tmp_path, _modalities(ct=same, mr=other))
  expected = {1: 'a', 2: 'b', 3: 'b'}
  for text in (path, f'{path}:ct', f'{path}:mr'):
    assert label_codes.parse(text) == (expected, (), None)


def test_an_export_says_its_codes_too(tmp_path):
  codes = {'background': 0, 'myocardium': 205}
  fields = {'title': 'CT', 'label_codes': codes, 'mm_per_pixel': 1.0}
  path = _file(tmp_path, {'classes': ['a'], 'modalities': {'ct': fields}})
  assert label_codes.parse(path).names == {205: 'myocardium'}


@pytest.mark.parametrize(
  'other', [{'a': 2}, {'b': 1}, {'a': 1, 'b': 2}, {'a': [1, 2]}]
)
def test_of_modalities_that_differ_one_is_chosen(tmp_path, other):
  path = _file(tmp_path, _modalities(ct={'a': 1}, mr=other))
  with pytest.raises(ValueError, match=f'one of {path}:ct, {path}:mr'):
    label_codes.parse(path)
  assert label_codes.parse(f'{path}:ct').names == {1: 'a'}
  with pytest.raises(ValueError, match="no modality 'pet': choose one of ct"):
    label_codes.parse(f'{path}:pet')


def test_a_modality_of_a_file_without_is_refused(tmp_path):
  path = _file(tmp_path, {'labels': {'a': 1}})
  with pytest.raises(ValueError, match='has no modalities: leave :ct away'):
    label_codes.parse(f'{path}:ct')


@pytest.mark.parametrize(
  'task', task_module.TASKS.values(), ids=lambda t: t.name
)
def test_what_a_run_keeps_of_its_task_fits(tmp_path, task):
  path = tmp_path / task_file.RUNS_TASK
  task_file.write(task_file.to_dict(task), path)
  for modality in task.modalities:
    found = label_codes.parse(f'{path}:{modality.name}').names
    assert found == {
      code: task.classes[index]
      for code, index in modality.codes.items()
      if index
    }
