import json

import pytest

from dbdc_jax.evaluation import label_codes


def _file(tmp_path, found):
  path = tmp_path / 'dataset.json'
  path.write_text(found if isinstance(found, str) else json.dumps(found))
  return str(path)


def test_nothing_given_is_no_choice():
  assert label_codes.parse('') is None


def test_codes_with_and_without_names():
  parse = label_codes.parse
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
  ],
)
def test_every_form_of_a_description(tmp_path, labels):
  found = label_codes.parse(_file(tmp_path, {'name': 'x', 'labels': labels}))
  assert found == {6: 'liver', 2: 'kidney'}


def test_regions_of_several_codes_are_classes_unless_they_overlap(tmp_path):
  apart = {'heart': [1, 2], 'aorta': 3}
  found = label_codes.parse(_file(tmp_path, {'labels': apart}))
  assert found == {1: 'heart', 2: 'heart', 3: 'aorta'}
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
    ('absent.json', 'absent.json cannot be read'),
  ],
)
def test_what_is_wrong_is_said(text, message):
  with pytest.raises(ValueError, match=message):
    label_codes.parse(text)


@pytest.mark.parametrize(
  ('found', 'message'),
  [
    ('{', 'is not JSON'),
    ([1], 'has no "labels"'),
    ({'labels': [1]}, 'has no "labels"'),
    ({'labels': {'liver': 1.5}}, '1.5 is no label code'),
    ({'labels': {'liver': True}}, 'True is no label code'),
    ({'labels': {'liver': 1, 'ignore': 2}}, 'voxels to ignore'),
    ({'labels': {'liver': 'kidney'}}, "'liver' is no label code"),
  ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, found, message):
  with pytest.raises(ValueError, match=message):
    label_codes.parse(_file(tmp_path, found))
