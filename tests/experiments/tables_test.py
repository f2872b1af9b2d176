import csv
import dataclasses
import json

import experiment_test
import numpy as np

from dbdc_jax.experiments import page, paper, plan, tables
from dbdc_jax.workdir import run_record


def _content(tmp_path, seeds, only=('dbdc', 'dbdc_no_maw'), written=None):
  options = plan.Options(tmp_path, seeds=seeds, vary='both')
  table = paper.table('1')
  runs = plan.select(plan.expand(table, options), only)
  for run in runs[:written]:
    experiment_test.write_run(run)
  return tables.collect(table, runs, options)


def test_numbers_are_mean_and_deviation_over_the_seeds(tmp_path):
  content = _content(tmp_path, (0, 1, 2))
  for row in content['rows']:
    results = [
      json.loads(
        (tmp_path / f'runs/{row["name"]}/seed{s}/results.json').read_text()
      )
      for s in (0, 1, 2)
    ]
    values = [r['mean']['native_grid']['dice'] for r in results]
    found = row['mean']['dice']
    np.testing.assert_allclose(found['mean'], np.mean(values))
    np.testing.assert_allclose(found['sd'], np.std(values, ddof=1))
    assert found['n'] == 3 and list(found['by_seed'].values()) == values
    assert len(row['cases']) == 3 * 2 * 3
    assert row['minutes']['mean'] == 1.0 and row['macs'] == 5000


def test_differences_are_to_the_reference_on_the_same_scans(tmp_path):
  content = _content(tmp_path, (0, 1))
  without, reference = content['rows']
  assert reference['difference'] is None
  found = without['difference']['dice']
  gap = without['mean']['dice']['mean'] - reference['mean']['dice']['mean']
  np.testing.assert_allclose(found['mean'], gap)
  assert found['low'] < gap < found['high'] and found['patients'] == 6


def test_a_row_may_be_compared_with_others(tmp_path):
  """The same difference as to the reference, turned; and a page of it."""
  table = paper.table('1')
  rows = tuple(
    dataclasses.replace(
      v, against=('dbdc_no_maw', 'unet_lb') if v.name == 'dbdc' else ()
    )
    for v in table.variants
  )
  table = dataclasses.replace(table, variants=rows)
  options = plan.Options(tmp_path, seeds=(0, 1), vary='both')
  runs = plan.select(plan.expand(table, options), ('dbdc', 'dbdc_no_maw'))
  for run in runs:
    experiment_test.write_run(run)
  content = tables.collect(table, runs, options)
  without, reference = content['rows']
  there = without['difference']['dice']
  back = reference['against']['dbdc_no_maw']['dice']
  np.testing.assert_allclose(back['mean'], -there['mean'])
  np.testing.assert_allclose(back['low'], -there['high'], atol=1e-9)
  # There is no run of it.
  assert reference['against']['unet_lb'] is None and not without['against']
  line = next(
    line
    for line in page.markdown(content)
    .split('## Other differences')[1]
    .split('\n')
    if line.startswith(f'| {reference["label"]} |')
  )
  assert f'{back["mean"]:+.2f} [' in line and without['label'] in line


def test_rows_say_how_many_runs_they_lack(tmp_path):
  content = _content(tmp_path, (0, 1), written=3)
  without, reference = content['rows']
  assert (without['n'], without['of'], reference['n']) == (2, 2, 1)
  assert reference['states'] == {'0': 'done', '1': 'to run'}
  assert reference['mean']['dice']['sd'] is None
  # The second seed has no partner.
  assert without['difference']['dice']['scans'] == 6
  assert '1 of 2' in page.markdown(content)


def test_both_ways_of_largest_components_have_a_table(tmp_path):
  seeds = (0, 1)
  plus = {'evaluation.components': 'validation'}
  table = paper.table('1')
  rows = tuple(
    dataclasses.replace(v, fields={**v.fields, **plus})
    if v.name == 'dbdc_no_maw'
    else v
    for v in table.variants
  )
  table = dataclasses.replace(table, variants=rows)
  options = plan.Options(tmp_path, seeds=seeds)
  names = ('dbdc', 'dbdc_no_maw')
  runs = plan.select(plan.expand(table, options), names)
  for run in runs:
    experiment_test.write_run(run)
  content = tables.collect(table, runs, options)
  for row in content['rows']:
    read = [
      json.loads(
        (tmp_path / f'runs/{row["name"]}/seed{s}/results.json').read_text()
      )
      for s in seeds
    ]
    ways = ['without', 'with']
    if row['name'] == 'dbdc_no_maw':
      ways.reverse()
    own, beside = (row['views'][way]['hd95']['mean'] for way in ways)
    mean = lambda of: np.mean([r['mean']['native_grid']['hd95'] for r in of])
    assert own == row['mean']['hd95']['mean'] != beside
    np.testing.assert_allclose(beside, mean(r['beside'] for r in read))
    line = [row['label'], f'{ways[0]} components']
    assert f'| {" | ".join(line)} |' in page.markdown(content)
  # The results of before have one way, and no such table.
  del read[0]['beside']
  run_record.write_json(runs[-1].workdir / 'results.json', read[0])
  row = tables.collect(table, runs, options)['rows'][1]
  assert [*row['views']] == ['without'] and row['n'] == 2
  # A run's own way is not the row's any more.
  options = dataclasses.replace(
    options, overrides=('--config.evaluation.components=validation',)
  )
  states = [plan.state(run) for run in plan.expand(table, options)]
  changed = [s for s in states if s[0] == plan.OTHER]
  assert (
    changed == [(plan.OTHER, 'evaluation.components: none -> validation')] * 2
  )


def test_files_say_the_same(tmp_path):
  content = _content(tmp_path, (0, 1))
  tables.write(content, tmp_path)
  names = {file.name for file in tmp_path.iterdir() if file.is_file()}
  assert names == {'table.md', 'table.csv', 'table.json'}
  read = json.loads((tmp_path / 'table.json').read_text())
  assert read['rows'][1]['mean']['hd95']['n'] == 2
  with (tmp_path / 'table.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 2 * 3 * 2
  row = next(
    r
    for r in rows
    if (r['row'], r['modality'], r['metric']) == ('dbdc', 'mr', 'dice')
  )
  dice = read['rows'][1]['modalities']['mr']['dice']
  assert float(row['mean']) == round(dice['mean'], 4)
  assert float(row['paper']) == 81.74
  text = (tmp_path / 'table.md').read_text()
  assert f'{dice["mean"]:.2f} ± {dice["sd"]:.2f}' in text
  assert 'split into training, validation and test patients, and' in text
  assert '**' not in text


def test_a_transfer_is_one_row_of_a_run_for_each_direction(tmp_path):
  content = _content(tmp_path, (0, 1), only=('varda', 'dbdc'), written=3)
  row = next(r for r in content['rows'] if r['name'] == 'varda')
  # Seed 0 has both directions, seed 1 only the first of them.
  assert (row['n'], row['of']) == (1, 2)
  assert row['states'] == {
    '0 ct_to_mr': 'done',
    '0 mr_to_ct': 'done',
    '1 ct_to_mr': 'done',
    '1 mr_to_ct': 'to run',
  }
  folders = tmp_path / 'runs' / 'varda'
  for part, target in (('ct_to_mr', 'mr'), ('mr_to_ct', 'ct')):
    read = json.loads((folders / part / 'seed0' / 'results.json').read_text())
    assert list(read['modalities']) == [target]
    mine = read['modalities'][target]['native_grid']['mean']['dice']
    assert row['modalities'][target]['dice']['mean'] == mine
    assert row['modalities'][target]['dice']['n'] == 1
  means = [row['modalities'][m]['dice']['mean'] for m in ('ct', 'mr')]
  np.testing.assert_allclose(row['mean']['dice']['mean'], np.mean(means))
  assert row['networks'] == 2 and row['minutes']['mean'] == 2.0
  assert len(row['commands']) == 2
  assert '--config.source=mr --config.target=ct' in row['commands'][1]


def test_table_1_on_more_modalities_has_a_row_for_each_ordered_pair(tmp_path):
  table = paper.table('1', ('ct', 't2', 't1in'), 'abdomen')
  names = [variant.name for variant in table.variants]
  assert 'varda_ct_to_t1in' in names and 'varda_t1in_to_ct' in names
  # Seven rows as they are, four times six directions.
  assert len(names) == len({*names}) == 7 + 4 * 6
  assert not any(variant.paper for variant in table.variants)
  options = plan.Options(tmp_path, modalities='ct,t2,t1in')
  runs = {run.variant.name: run for run in plan.expand(table, options)}
  for name in ('summl', 'mass'):
    state, why = plan.state(runs[name])
    assert state == plan.UNAVAILABLE and 'this is 3 modalities' in why
  assert plan.state(runs['varda_ct_to_t1in'])[0] == plan.NEW


def test_a_table_without_any_run_is_a_table(tmp_path):
  content = _content(tmp_path, (0,), only=(), written=0)
  tables.write(content, tmp_path)
  assert len(content['rows']) == 11
  assert '87.43' in (tmp_path / 'table.md').read_text()
