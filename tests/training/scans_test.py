"""What would be lost with fewer labels: which are taken as not drawn."""

import collections
import dataclasses
import types

import fake_scans
import numpy as np
import pytest

from configs import heart
from data.cache.prepared import Prepared, PreparedCase
from data.task import UNKNOWN
from dbdc_jax import methods
from dbdc_jax.training import scans

SIDE = 8
FACTS = {
  'num_slices': 21, 'offset': 0, 'geometry': {'slice_size': SIDE},
  'spacing': (1.0, 1.0, 1.0), 'mm_per_pixel': 1.0, 'voxels_per_class': [],
  'content': '', 'labeled': True,
}  # fmt: skip


def _case(name, modality):
  return PreparedCase(name=name, patient=name, modality=modality, **FACTS)


CASES = [_case(f'{m}_{n}', m) for m in ('ct', 'mr') for n in range(4)]
SPLIT = {
  m: {
    'labeled': [f'{m}_0', f'{m}_1', f'{m}_2'],
    'unlabeled': [],
    'validation': [f'{m}_3'],
    'test': [],
  }
  for m in ('ct', 'mr')
}


def _less(**fields):
  prepared = object.__new__(Prepared)
  prepared.cases = tuple(CASES)
  config = heart.get_config()
  config.data.update(fields)
  problem = methods.resolve(config)
  found = scans.with_less_drawn(prepared, SPLIT, problem)
  return {case.name: case for case in found.cases}, problem


def test_nothing_is_left_out_unless_it_is_asked_for():
  found, _ = _less()
  assert list(found.values()) == CASES


@pytest.mark.parametrize('share', [0.01, 0.5, 0.9])
def test_a_share_of_scans_and_classes_stays_drawn(share):
  found, problem = _less(drawn_share=share)
  each = max(1, round(share * 3))
  for modality in ('ct', 'mr'):
    chosen = [found[name].drawn for name in SPLIT[modality]['labeled']]
    counts = collections.Counter(index for drawn in chosen for index in drawn)
    assert counts == dict.fromkeys(range(1, len(problem.classes)), each)
    assert found[f'{modality}_3'] == CASES[3 if modality == 'ct' else 7]
  assert _less(drawn_share=share)[0] == found
  other, _ = _less(drawn_share=share, split_seed=5)
  assert share == 0.9 or other != found
  # Nothing is drawn on the slices of a scan without a class.
  for name in SPLIT['ct']['labeled']:
    assert len(found[name].undrawn) == (0 if found[name].drawn else 21)


@pytest.mark.parametrize(('every', 'slices'), [(10, [5, 15]), (50, [10])])
def test_one_of_so_many_slices_stays_drawn(every, slices):
  found, _ = _less(drawn_every=every)
  case = found['mr_1']
  assert sorted({*range(21)} - {*case.undrawn}) == slices
  assert case.partly_drawn and case.drawn is None


@pytest.mark.parametrize(
  'fields', [{'drawn_share': 0.0}, {'drawn_share': 1.1}, {'drawn_every': 0}]
)
def test_what_cannot_be_is_refused(fields):
  ((name, value),) = fields.items()
  with pytest.raises(ValueError, match=f'data.{name}={value}'):
    _less(**fields)


def test_labels_hold_no_more_than_was_drawn():
  """One slice, or all of them, and what training is told of them."""
  case = fake_scans.Case('ct_0', 4, SIDE, drawn=[1, 3], undrawn=[2])
  source = fake_scans.Scans([case], 5)
  prepared = object.__new__(Prepared)
  prepared._array = lambda case, index, name: getattr(source, name)(case, index)
  whole = source.labels(case)
  expected = np.where(np.isin(whole, (1, 3)), whole, 0)
  expected[2] = UNKNOWN
  case.left_open = types.MethodType(PreparedCase.left_open, case)
  np.testing.assert_array_equal(prepared.labels(case), expected)
  for index in range(4):
    found = prepared.label(case, index)
    np.testing.assert_array_equal(found, expected[index])


def _with_drawn(drawn):
  prepared = object.__new__(Prepared)
  prepared.cases = tuple(
    dataclasses.replace(case, drawn=drawn.get(case.name, case.drawn))
    for case in CASES
  )
  problem = methods.resolve(heart.get_config())
  present = np.ones(problem.labelable.shape, bool)
  return scans.prototyped_classes(present, prepared, SPLIT, problem)


def test_background_is_known_where_some_scan_was_drawn_for_all():
  assert _with_drawn({}) is None
  some = {f'ct_{n}': [1, 2] for n in range(3)}
  found = _with_drawn(some)
  assert found[0, 1:].all() and not found[0, 0] and found[1].all()
  assert _with_drawn({'ct_0': [1]}).all()
  # Validation scans do not count.
  assert _with_drawn({'ct_3': [1]}) is None


def test_a_class_that_nobody_drew_in_any_scan_is_an_error():
  """In one of the modalities it is none: the others teach it."""
  all_but = [1, 2, 3, 4, 5, 7]
  ct = {f'ct_{n}': all_but for n in range(3)}
  assert _with_drawn(ct) is not None
  every = ct | {f'mr_{n}': all_but for n in range(3)}
  with pytest.raises(ValueError, match='ascending aorta: drawn in no labelled'):
    _with_drawn(every)
