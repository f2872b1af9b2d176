import csv
import dataclasses
import json

import experiment_test
import numpy as np
import pytest

from dbdc_jax import experiment
from dbdc_jax.experiments import page, plan, scores, tables, variants
from dbdc_jax.workdir import run_record


def _experiment(tmp_path):
  """Four rows of which one is scored with components, and the last tested."""
  rows = (
    variants.Variant('lb', 'LB', 'supervised'),
    variants.Variant('all_ub', 'UB', 'supervised'),
    variants.Variant('dbdc', 'DBDC', against=('lb',)),
    variants.Variant(
      'plus', 'plus', fields={'evaluation.components': 'validation'}
    ),
  )
  table = variants.Table('evidence', 'heart', rows)
  options = plan.Options(
    tmp_path, seeds=(0, 1), overrides=('--config.evaluation.last=true',)
  )
  runs = plan.expand(table, options)
  for run in runs:
    experiment_test.write_run(run)
    if run.variant.name == 'all_ub':
      file = run.workdir / 'results.json'
      run_record.write_json(file, _better(json.loads(file.read_text())))
  return table, options, runs


def _better(results):
  """The same with 30 points more of DSC everywhere, means and scans."""
  if isinstance(results, list):
    return [_better(item) for item in results]
  if not isinstance(results, dict):
    return results
  return {
    key: value + 30 if key == 'dice' and value.__class__ is float else value
    for key, value in ((k, _better(v)) for k, v in results.items())
  }


def _close(mine, other, path=''):
  """Two contents of a table that agree to the digits of a scores.csv."""
  if isinstance(mine, dict):
    assert mine.keys() == other.keys(), path
    for key in mine:
      _close(mine[key], other[key], f'{path}/{key}')
  elif isinstance(mine, float):
    np.testing.assert_allclose(other, mine, atol=0.02, rtol=2e-3, err_msg=path)
  else:
    assert mine == other, path


def test_the_tables_of_the_scores_are_those_of_the_runs(tmp_path):
  table, options, runs = _experiment(tmp_path)
  file = tmp_path / 'moved.csv'
  file.write_bytes(tables.scores_of(runs))
  again = dataclasses.replace(options, scores=file)
  given = plan.expand(table, again)
  assert {plan.state(run) for run in given} == {(plan.DONE, '')}
  assert tables.scores_of(given) == file.read_bytes()
  content, other = (
    tables.collect(table, planned, opts)
    for planned, opts in ((runs, options), (given, again))
  )
  for mine, theirs in zip(content['rows'], other['rows'], strict=True):
    for key in ('name', 'n', 'scored', 'minutes', 'mean', 'views', 'share'):
      _close(mine[key], theirs[key], f'{mine["name"]}/{key}')
    for key in ('difference', 'against'):
      _close(mine[key], theirs[key], f'{mine["name"]}/{key}')
  text = page.markdown(other)
  assert '## Share of the gap' in text and 'last checkpoint' in text
  shares = [row['share']['mean'] for row in other['rows']]
  np.testing.assert_allclose(shares[:2], [0, 100], atol=1e-9)


def test_experiments_that_were_made_in_parts_add_up(tmp_path):
  """One file behind the other, headers and all."""
  table, options, runs = _experiment(tmp_path)
  halves = [[r for r in runs if r.seed == seed] for seed in (0, 1)]
  file = tmp_path / 'both.csv'
  file.write_bytes(b''.join(map(tables.scores_of, halves)))
  given = plan.expand(table, dataclasses.replace(options, scores=file))
  assert {plan.state(run)[0] for run in given} == {plan.DONE}
  more = dataclasses.replace(options, scores=file, seeds=(0, 1, 2))
  states = {run.seed: plan.state(run) for run in plan.expand(table, more)}
  assert states[2] == (plan.UNAVAILABLE, f'not in {file}')


def test_the_command_shows_what_is_there_and_runs_nothing(tmp_path, capsys):
  _, _, runs = _experiment(tmp_path / 'elsewhere')
  file, rows = tmp_path / 'moved.csv', tmp_path / 'rows.json'
  file.write_bytes(tables.scores_of(runs))
  rows.write_text('[{"name": "lb"}, {"name": "dbdc"}, {"name": "new"}]')
  out = tmp_path / 'out'
  arguments = ['--variants', str(rows), '--task', 'heart', '--seeds=0,1']
  arguments += ['--scores', str(file), f'--output={out}']
  assert experiment.main(arguments, lambda run: pytest.fail(run.name)) == 1
  said = capsys.readouterr().err
  assert '2 of 6 runs are not done' in said and f'not in {file}' in said
  # No command would take them up.
  assert 'again' not in said
  assert {f.name for f in out.iterdir()} == {
    'table.md',
    'table.csv',
    'table.json',
  }


def test_a_scan_without_a_value_is_empty_and_comes_back(tmp_path):
  _, _, runs = _experiment(tmp_path)
  results = plan.results(runs[0])
  for score in results['cases'][0]['native'].values():
    score['hd95'] = None
  file = tmp_path / 'scores.csv'
  file.write_bytes(scores.text(scores.lines('lb', {0: results})))
  with file.open() as lines:
    first = next(csv.DictReader(lines))
  assert first['hd95_without'] == '' and first['dice_without']
  case = scores.read(file)['lb', 0]['cases'][0]
  ((found,),) = [case['native'].values()]
  assert found['hd95'] is None and found['dice'] == float(first['dice_without'])


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda t: 'a,b\n1,2\n', 'not a scores.csv of an experiment'),
    (lambda t: '', 'not a scores.csv of an experiment'),
    (lambda t: t + t, 'twice'),
    (lambda t: t.replace('lb,0,', 'lb,zero,', 1), "line 2: .*'zero'"),
    (lambda t: t[: t.rindex(',')], 'line 7: .*shorter'),
  ],
)
def test_a_file_that_is_none_says_where(tmp_path, change, said):
  table, options, runs = _experiment(tmp_path)
  file = tmp_path / 'scores.csv'
  text = tables.scores_of(runs[:1]).decode()
  file.write_text(change(text.strip() + '\n'))
  with pytest.raises(ValueError, match=said):
    plan.expand(table, dataclasses.replace(options, scores=file))
