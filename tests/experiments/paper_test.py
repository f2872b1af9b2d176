"""The printed numbers, held against each other."""

import itertools

import numpy as np
import pytest

from data.task import TASKS
from dbdc_jax.experiments import paper, plan

SCORED = [table for name in ('1', '2') for table in [paper.table(name)]]


@pytest.mark.parametrize('table', SCORED, ids=lambda table: table.title)
def test_printed_means_are_the_means_of_their_columns(table):
  """To the second decimal, as printed: a mistyped digit breaks it."""
  modalities = [m.name for m in TASKS[table.task].modalities]
  for variant in table.variants:
    columns = [variant.paper[name] for name in modalities]
    np.testing.assert_allclose(
      np.mean(columns, 0),
      variant.paper['mean'],
      atol=0.011,
      err_msg=variant.name,
    )


@pytest.mark.parametrize('name', paper.TABLES)
def test_rows_have_names_of_their_own_and_one_is_the_reference(name):
  names = [variant.name for variant in paper.table(name).variants]
  assert len(set(names)) == len(names) and names[-1] == 'dbdc'


@pytest.mark.parametrize('table', SCORED, ids=lambda table: table.title)
def test_every_method_is_held_against_labelled_scans_alone(table):
  """Whether it pays to use more than those is what the tables are about."""
  bound, *others = table.variants
  assert bound.name == 'unet_lb' and not bound.against
  assert {tuple(variant.against) for variant in others} == {('unet_lb',)}


def test_the_ablation_adds_one_term_at_a_time():
  off = [set(variant.fields) for variant in paper.table('3').variants]
  assert [len(fields) for fields in off] == [5, 4, 3, 2, 1, 0]
  assert all(after < before for before, after in itertools.pairwise(off))


def test_figure_8_combines_the_modalities_that_are_asked_for():
  assert len(paper.table('fig8').variants) == 6 + 4 + 1
  three = paper.table('fig8', ('ct', 't2', 't1in')).variants
  assert [v.fields.get('modalities') for v in three] == [
    'ct,t2',
    'ct,t1in',
    't2,t1in',
    None,
  ]


@pytest.mark.parametrize('name', ['1', '2', '3', 'fig8'])
def test_rows_of_methods_that_are_there_can_be_run(name, tmp_path):
  for run in plan.expand(paper.table(name), plan.Options(tmp_path)):
    assert not run.reason or run.reason.startswith('there is no method')
