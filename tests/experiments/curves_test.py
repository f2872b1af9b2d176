import json

import experiment_test
import pytest

from dbdc_jax.experiments import curves, page, paper, plan, tables


def _write(folder, rows):
  folder.mkdir(parents=True, exist_ok=True)
  lines = [json.dumps({'kind': 'epoch', **row}) for row in rows]
  # What a killed run leaves at the end is no row.
  (folder / 'metrics.jsonl').write_text('\n'.join(lines) + '\n{"step": 9')


def _epochs(modality, steps, values):
  name = f'validation_dice/{modality}'
  return [
    {'step': steps * (n + 1), 'epoch': n + 1, 'loss': 1.0}
    | ({} if value is None else {name: value})
    for n, value in enumerate(values)
  ]


def _runs(tmp_path, seeds, *rows):
  options = plan.Options(tmp_path, seeds=seeds)
  table = paper.table('1')
  return table, options, plan.select(plan.expand(table, options), rows)


def test_networks_of_their_own_count_alike(tmp_path):
  table, options, runs = _runs(tmp_path, (0,), 'unet_lb')
  experiment_test.write_run(runs[0])
  _write(runs[0].workdir / 'ct', _epochs('ct', 10, (0.1, 0.2, 0.4, 0.3)))
  # Of twice the epochs, validated after every other one.
  _write(
    runs[0].workdir / 'mr',
    _epochs('mr', 3, (None, 0.5, None, 0.7, None, 0.8, None, 0.9)),
  )
  found = curves.learning(runs)
  assert found['steps'] == 40
  assert found['dice'] == pytest.approx([30, 45, 60, 60])
  text = page.markdown(tables.collect(table, runs, options))
  assert '| row | steps | after 25% | after 50% | after 75% |' in text
  assert '| 40 | 30.0 | 45.0 | 60.0 | 60.0 |' in text


def test_what_is_not_tested_or_not_finished_has_no_part(tmp_path):
  """Of a source's DSC, and of a run that goes on, nothing is told."""
  _, _, runs = _runs(tmp_path, (0, 1), 'varda')
  to_mr, to_mr_again, to_ct, _ = sorted(runs, key=lambda run: run.part)
  assert (to_mr.part, to_ct.part) == ('ct_to_mr', 'mr_to_ct')
  for run, target, source in ((to_mr, 'mr', 'ct'), (to_ct, 'ct', 'mr')):
    experiment_test.write_run(run)
    both = zip(
      _epochs(target, 5, (0.2, 0.4)),
      _epochs(source, 5, (0.9, 0.9)),
      strict=True,
    )
    _write(run.workdir, [{**a, **b} for a, b in both])
  _write(to_mr_again.workdir, _epochs('mr', 5, (1.0, 1.0)))
  assert curves.learning(runs) == {
    'steps': 10,
    # Nothing was validated after a quarter.
    'dice': [None, *map(pytest.approx, (20.0, 20.0, 40.0))],
  }


def test_results_without_metrics_have_no_curve(tmp_path):
  table, options, runs = _runs(tmp_path, (0,), 'dbdc')
  experiment_test.write_run(runs[0])
  content = tables.collect(table, runs, options)
  assert content['rows'][0]['learning'] is None
  assert 'on the way' not in page.markdown(content).lower()
