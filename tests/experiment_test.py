"""Planning, skipping, resuming: with runs that are not trained but written."""

import itertools
import json
import os
import shlex
import signal
import sys
import threading
import time

import numpy as np
import own_scans
import pytest

from data import task_file
from dbdc_jax import experiment
from dbdc_jax.evaluation import scoring
from dbdc_jax.experiments import paper, plan, runner
from dbdc_jax.workdir import run_record


def _case(modality, number, classes, rng, last=False):
  row = lambda: {
    'dice': float(rng.uniform(50, 90)),
    'hd95': float(rng.uniform(2, 20)),
    'assd': 1.0,
    'nsd': 50.0,
    'hd95_voxel': 1.0,
    'hd95_union_voxel': 1.0,
    'empty': '',
  }
  names = classes[1:]
  grids = lambda: {
    grid: {name: row() for name in names} for grid in ('native', 'prepared')
  }
  both = lambda: {**grids(), 'beside': grids()}
  return {
    'case': f'{modality}{number}',
    'patient': f'{modality}{number}',
    'modality': modality,
    **both(),
    **({'last': both()} if last else {}),
  }


def write_run(run):
  """What a finished run leaves, with scores that depend on row and seed."""
  task = task_file.find(run.config.task)
  names = [m.name for m in task.select(run.config.modalities)]
  if run.config.target:
    names = [run.config.target]
  rng = np.random.default_rng([run.seed, len(run.variant.name)])
  last = run.config.evaluation.last
  cases = [
    _case(m, i, task.classes, rng, last) for m in names for i in range(3)
  ]
  facts = {'parameters': 1000, 'macs': 5000, 'train_seconds': 60.0}
  info = {
    'components': run.config.evaluation.components,
    'epochs': run.config.epochs,
    'devices': '1 x cpu',
    'networks': {','.join(names): facts},
  }
  run.workdir.mkdir(parents=True, exist_ok=True)
  run_record.write_json(run.workdir / 'config.json', run.config.to_dict())
  results = scoring.summarize(cases, task.classes, names, info)
  scoring.write_results(results, run.workdir)
  return ''


class Recorder:
  """An `execute` that remembers its runs; those of `failing` fail."""

  def __init__(self, *failing):
    self.ran, self._failing = [], failing

  def __call__(self, run):
    self.ran.append((run.variant.name, run.seed))
    if run.variant.name in self._failing:
      return 'exit code 1: the disk is full'
    return write_run(run)


@pytest.fixture
def rows(tmp_path):
  """Three rows of the heart as a file, and the arguments that run them."""
  file = tmp_path / 'rows.json'
  file.write_text(
    json.dumps(
      [
        {'name': 'dbdc', 'paper': {'mean': [84.56, 4.21]}},
        {'name': 'no_maw', 'fields': {'weighting.enabled': False}},
        {'name': 'unet', 'label': 'U-Net', 'method': 'supervised'},
      ]
    )
  )
  return [
    '--variants',
    str(file),
    '--task',
    'heart',
    f'--output={tmp_path / "out"}',
  ]


def test_every_row_runs_once_for_each_seed_and_then_never_again(rows, capsys):
  first, again = Recorder(), Recorder()
  assert experiment.main([*rows, '--seeds', '0,1'], first) == 0
  assert first.ran == [
    (name, seed) for name in ('dbdc', 'no_maw', 'unet') for seed in (0, 1)
  ]
  assert experiment.main([*rows, '--seeds', '0,1'], again) == 0
  assert again.ran == []
  # One more seed runs alone.
  assert experiment.main([*rows, '--seeds', '0,1,2'], again) == 0
  assert [seed for _, seed in again.ran] == [2, 2, 2]
  # The third seed's last run leaves nothing to do.
  assert capsys.readouterr().out.strip().splitlines()[-2].endswith('left: 0 s')


@pytest.fixture
def own(tmp_path, cache):
  """Arguments that compare two methods over the folds of own scans."""
  place = tmp_path / 'my scans'
  own_scans.write(place, cache)
  return [
    *('--task', 'folder', '--scans', str(place), '--preset', 'tiny'),
    *('--methods', 'dbdc,supervised', '--vary', 'folds'),
    *('--seeds', '0,1,2,3,4', f'--output={tmp_path / "out"}'),
  ]


def test_own_scans_are_compared_over_folds(own, tmp_path, capsys):
  assert experiment.main(own, Recorder()) == 0
  printed = capsys.readouterr().out
  for row in ('dbdc', 'supervised'):
    (line,) = (
      line for line in printed.splitlines() if f'runs/{row}/seed0 ' in line
    )
    words = shlex.split(line)
    folders = [str(tmp_path / f'out/runs/{row}/seed{n}') for n in range(5)]
    assert words[words.index('-m') + 1] == 'dbdc_jax.predict'
    runs = [b for a, b in itertools.pairwise(words) if a == '--run']
    assert runs == folders
  page = (tmp_path / 'out' / 'table.md').read_text()
  assert page.startswith('# my scans') and 'paper' not in page.split('\n## ')[1]
  content = json.loads((tmp_path / 'out' / 'table.json').read_text())
  assert content['task'] == 'folder'
  # CT's kidneys and T2's liver: what each modality's labels hold.
  assert {*content['rows'][0]['modalities']} == {'ct', 't2'}
  again = Recorder()
  assert experiment.main(own, again) == 0 and not again.ran


def test_what_is_listed_of_own_scans_is_the_plain_command(own, capsys):
  assert experiment.main([*own, '--list']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 10
  words = shlex.split(lines[3])
  (config,) = (w for w in words if w.startswith('--config='))
  assert config.startswith('--config=configs/folder.py:method=dbdc')
  assert '--config.data.fold=3' in words


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--methods', 'dbdc'], '--variants and --methods need --task'),
    (['--methods', 'dbdc,x', '--task', 'heart'], 'give some of'),
    (['--methods', 'dbdc,dbdc', '--task', 'heart'], 'each once'),
    (['--methods', 'dbdc', '--task', 'folder'], 'give --scans DIR'),
    (['--table', '1', '--task', 'folder'], 'of own scans give --methods'),
  ],
)
def test_what_own_scans_need_is_said(flags, said, tmp_path, capsys):
  with pytest.raises(SystemExit) as caught:
    experiment.main([*flags, f'--output={tmp_path / "out"}'])
  assert caught.value.code == 2 and said in capsys.readouterr().err


def test_a_failed_run_stops_no_other_and_is_taken_up_again(
  rows, tmp_path, capsys
):
  broken, mended = Recorder('no_maw'), Recorder()
  assert experiment.main(rows, broken) == 1
  assert [name for name, _ in broken.ran] == ['dbdc', 'no_maw', 'unet']
  assert 'no_maw, seed 0: exit code 1: the disk is full' in (
    capsys.readouterr().err
  )
  table = json.loads((tmp_path / 'out' / 'table.json').read_text())
  assert [(row['n'], row['of']) for row in table['rows']] == [
    (1, 1),
    (0, 1),
    (1, 1),
  ]
  assert '0 of 1' in (tmp_path / 'out' / 'table.md').read_text()
  assert experiment.main(rows, mended) == 0
  assert mended.ran == [('no_maw', 0)]


def test_a_run_with_checkpoints_but_no_results_is_resumed(rows, tmp_path):
  assert experiment.main(rows, Recorder()) == 0
  workdir = tmp_path / 'out' / 'runs' / 'dbdc' / 'seed0'
  (workdir / 'checkpoints' / '10').mkdir(parents=True)
  (workdir / 'results.json').unlink()
  again = Recorder()
  assert experiment.main(rows, again) == 0
  assert again.ran == [('dbdc', 0)]


def test_more_epochs_go_on_and_other_settings_are_refused(rows, capsys):
  assert experiment.main([*rows, '--config.epochs=5'], Recorder()) == 0
  more, less, other = Recorder(), Recorder(), Recorder()
  assert experiment.main([*rows, '--config.epochs=9'], more) == 0
  assert len(more.ran) == 3
  assert experiment.main([*rows, '--config.epochs=5'], less) == 1
  assert 'epochs: 9 -> 5' in capsys.readouterr().err
  arguments = [*rows, '--config.epochs=9', '--config.mpcl.delta=0.5']
  assert experiment.main(arguments, other) == 1
  assert 'other settings: mpcl.delta: 0.1 -> 0.5' in capsys.readouterr().err
  assert not less.ran and not other.ran


def test_a_field_that_a_finished_run_did_not_know_had_its_default(
  rows, tmp_path
):
  assert experiment.main(rows, Recorder()) == 0
  path = tmp_path / 'out' / 'runs' / 'dbdc' / 'seed0' / 'config.json'
  old = json.loads(path.read_text())
  del old['ssl']['pool']
  path.write_text(json.dumps(old))
  again, other = Recorder(), Recorder()
  assert experiment.main(rows, again) == 0
  assert experiment.main([*rows, '--config.ssl.pool=9'], other) == 1
  assert not again.ran and not other.ran


def test_the_plan_and_the_commands_run_nothing(rows, tmp_path, capsys):
  record = Recorder()
  assert experiment.main([*rows, '--dry-run'], record) == 0
  assert capsys.readouterr().out.count('to run') == 3
  assert experiment.main([*rows, '--list'], record) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 3 and not record.ran
  assert not (tmp_path / 'out').exists()
  assert experiment.main([*rows, '--only', 'no_maw'], record) == 0
  capsys.readouterr()
  assert experiment.main([*rows, '--list'], record) == 0
  assert len(capsys.readouterr().out.splitlines()) == 2


def test_what_is_listed_gives_the_config_that_is_compared(rows, capsys):
  arguments = [*rows, '--only=no_maw', '--preset=tiny', '--seeds=7']
  arguments += ['--vary=both', '--modalities=mr', '--config.mpcl.delta=0.3']
  experiment.main([*arguments, '--list'], Recorder())
  (line,) = capsys.readouterr().out.splitlines()
  words = shlex.split(line)
  assert words[:3] == [sys.executable, '-m', 'dbdc_jax.main']
  file, _, argument = words[3].partition(':')
  assert file == '--config=configs/heart.py'
  fields = [word for word in words if word.startswith('--config.')]
  config = plan.resolve('heart', argument, fields)
  assert (config.seed, config.data.split_seed) == (7, 7)
  assert config.modalities == 'mr' and config.mpcl.delta == 0.3
  assert not config.weighting.enabled and config.model.width == 6


@pytest.mark.parametrize(
  ('vary', 'fields'),
  [('weights', (3, 0)), ('split', (0, 3)), ('both', (3, 3))],
)
def test_the_seeds_vary_what_they_are_told_to(vary, fields, tmp_path):
  table = paper.table('1')
  options = plan.Options(tmp_path, seeds=(3,), vary=vary)
  (run,) = plan.select(plan.expand(table, options), ['dbdc'])
  assert (run.config.seed, run.config.data.split_seed) == fields


def test_what_is_not_there_is_said_and_fails_alone(tmp_path, capsys):
  file = tmp_path / 'rows.json'
  file.write_text(
    json.dumps(
      [
        {'name': 'dbdc'},
        {'name': 'later', 'method': 'later'},
        {'name': 'odd', 'fields': {'model.odd': 'x'}},
      ]
    )
  )
  arguments = ['--variants', str(file), '--task', 'heart']
  arguments += ['--output', str(tmp_path / 'out')]
  record = Recorder()
  assert experiment.main([*arguments, '--dry-run'], record) == 0
  out = capsys.readouterr().out
  assert out.count('not available') == 2
  assert 'there is no method later' in out
  assert experiment.main(arguments, record) == 1
  assert record.ran == [('dbdc', 0)]
  assert 'the config has no field' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('more', 'part'),
  [
    (['--config.mpcl.detla=1'], 'no field'),
    (['--config.seed=1'], '--seeds sets it'),
    (['--only=other'], 'no such row; there are: dbdc'),
    (['--epochs=3'], 'unrecognized arguments: --epochs=3'),
    (['--modalities=pet'], 'pet'),
    (['--preset=huge'], 'preset=huge'),
    (['--preset=auto'], 'give --preset quick'),
    (['--seeds=1,1'], 'different seeds'),
  ],
)
def test_a_wrong_command_line_is_one_sentence(rows, more, part, capsys):
  with pytest.raises(SystemExit) as caught:
    experiment.main([*rows, *more], Recorder())
  assert caught.value.code == 2
  assert part in capsys.readouterr().err


@pytest.mark.parametrize(
  ('name', 'content'),
  [
    ('table.csv', 'patient,age\n1,67\n'),
    ('table.md', '# My notes\n'),
    ('table.json', '{"title": "mine"}'),
    ('table.json', '[1'),
    ('table.json', None),
  ],
)
def test_a_file_of_a_tables_name_that_is_none_stays(
  rows, tmp_path, capsys, name, content
):
  path = tmp_path / 'out' / name
  path.parent.mkdir()
  if content is None:
    path.mkdir()
  else:
    path.write_text(content)
  record = Recorder()
  with pytest.raises(SystemExit):
    experiment.main(rows, record)
  err = capsys.readouterr().err
  assert f'{name} is there and is no table' in err and '--output' in err
  assert not record.ran and [*path.parent.iterdir()] == [path]
  assert content is None or path.read_text() == content


def test_an_experiment_needs_a_folder(rows, tmp_path, capsys):
  (tmp_path / 'out').write_text('mine')
  with pytest.raises(SystemExit):
    experiment.main(rows, Recorder())
  assert 'out is no folder: choose another' in capsys.readouterr().err
  assert (tmp_path / 'out').read_text() == 'mine'


def test_a_folder_that_holds_no_run_is_left_alone(rows, tmp_path, capsys):
  runs = tmp_path / 'out' / 'runs'
  for name, file in (('dbdc', 'a.nii.gz'), ('unet', 'config.json')):
    (runs / name / 'seed0').mkdir(parents=True)
    (runs / name / 'seed0' / file).write_text('{"mine": 1}')
  # As a run leaves it that was killed while it prepared its scans.
  (runs / 'no_maw' / 'seed0').mkdir(parents=True)
  (runs / 'no_maw' / 'seed0' / '.lock').touch()
  record = Recorder()
  assert experiment.main(rows, record) == 1
  assert record.ran == [('no_maw', 0)]
  assert capsys.readouterr().err.count('holds what is no run: move it') == 2
  for name in ('dbdc', 'unet'):
    assert len([*(runs / name / 'seed0').iterdir()]) == 1


def test_damaged_results_are_made_again(rows, tmp_path):
  assert experiment.main(rows, Recorder()) == 0
  for name, text in (('dbdc', '{"run": '), ('unet', '[]')):
    path = tmp_path / 'out' / 'runs' / name / 'seed0' / 'results.json'
    path.write_text(text)
  again = Recorder()
  assert experiment.main(rows, again) == 0
  assert again.ran == [('dbdc', 0), ('unet', 0)]


def test_results_of_another_program_are_a_row_and_are_not_run(
  rows, tmp_path, capsys
):
  assert experiment.main([*rows, '--seeds=0,1'], Recorder()) == 0
  out, peer = tmp_path / 'out', tmp_path / 'peer'
  for seed, odd in ((0, ''), (1, 'x')):
    found = json.loads((out / f'runs/unet/seed{seed}/results.json').read_text())
    for case in found['cases']:
      case['case'] += odd
      for row in case['native'].values():
        row['dice'] += 5
    (peer / f'seed{seed}').mkdir(parents=True)
    (peer / f'seed{seed}' / 'results.json').write_text(json.dumps(found))
  file = tmp_path / 'rows.json'
  mine = json.loads(file.read_text())
  there = {'name': 'peer', 'results': 'peer/seed{seed}'}
  file.write_text(json.dumps([*mine, there]))
  record = Recorder()
  assert experiment.main([*rows, '--seeds=0,1'], record) == 0
  assert not record.ran
  table = json.loads((out / 'table.json').read_text())
  shown = {row['name']: row for row in table['rows']}
  assert (shown['peer']['n'], shown['peer']['commands']) == (2, [])
  peers = shown['peer']['mean']['dice']
  assert peers['by_seed'] == shown['unet']['mean']['dice']['by_seed']
  ours = {
    (case['modality'], case['case']): case['classes']
    for case in shown['dbdc']['cases']
    if case['seed'] == 0
  }
  gaps = [
    np.mean([row['dice'] - theirs[name]['dice'] for name, row in mine.items()])
    for case in shown['peer']['cases']
    if case['seed'] == 0
    for mine in [case['classes']]
    for theirs in [ours[case['modality'], case['case']]]
  ]
  found = shown['peer']['difference']['dice']
  # Of the other seed no scan is the same, which is said.
  assert found['scans'] == len(gaps) == 6
  np.testing.assert_allclose(found['mean'], np.mean(gaps))
  assert [note.split(':')[0] for note in table['notes']] == ['peer, seed 1']
  # A seed that is not there is said, and costs no other row.
  capsys.readouterr()
  assert experiment.main([*rows, '--seeds=0,2'], record) == 1
  assert {name for name, _ in record.ran} == {'dbdc', 'no_maw', 'unet'}
  assert 'peer, seed 2: not available' in capsys.readouterr().err


@pytest.mark.parametrize(
  'row',
  [
    {'results': 'peer/seed0'},
    {'results': 7},
    {'results': 'peer/{seed}', 'method': 'supervised'},
    {'results': 'peer/{seed}', 'fields': {}},
    {'results': 'peer/{seed}', 'recipe': 'plus'},
  ],
)
def test_results_of_another_program_are_named_by_seed_and_alone(
  rows, tmp_path, row, capsys
):
  file = tmp_path / 'rows.json'
  file.write_text(json.dumps([{'name': 'peer', **row}]))
  with pytest.raises(SystemExit):
    experiment.main(rows, Recorder())
  assert 'peer: "results" is a folder of another program' in (
    capsys.readouterr().err
  )


def test_a_row_is_compared_with_rows_that_there_are(rows, tmp_path, capsys):
  file = tmp_path / 'rows.json'
  file.write_text(json.dumps([{'name': 'dbdc', 'against': ['lb', 'dbdc']}]))
  with pytest.raises(SystemExit):
    experiment.main(rows, Recorder())
  said = capsys.readouterr().err
  assert 'dbdc: "against" names lb, and there are: dbdc' in said


def _command(run, text):
  return plan.PlannedRun(
    run.variant,
    run.seed,
    run.part,
    run.workdir,
    (sys.executable, '-c', text),
    run.config,
  )


def test_a_process_that_fails_leaves_its_last_words(tmp_path):
  table = paper.table('1')
  runs = plan.expand(table, plan.Options(tmp_path))
  (run,) = plan.select(runs, ['dbdc'])
  assert runner.execute(_command(run, 'print("fine")')) == ''
  reason = runner.execute(_command(run, 'import sys; sys.exit("no space")'))
  assert reason == 'exit code 1: no space'
  assert runner.log_file(run).read_text() == 'fine\nno space\n'


def test_the_table_keeps_the_rows_that_are_not_run_now(rows, tmp_path):
  assert experiment.main([*rows, '--only=dbdc'], Recorder()) == 0
  assert experiment.main([*rows, '--only=unet'], Recorder()) == 0
  table = json.loads((tmp_path / 'out' / 'table.json').read_text())
  found = {row['name']: row['n'] for row in table['rows']}
  assert found == {'dbdc': 1, 'no_maw': 0, 'unet': 1}


def test_to_be_told_to_stop_ends_the_running_process_too(tmp_path):
  table = paper.table('1')
  runs = plan.expand(table, plan.Options(tmp_path))
  text = 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'
  (run,) = [_command(run, text) for run in plan.select(runs, ['dbdc'])]
  log = runner.log_file(run)

  def stop():
    while not log.exists() or not log.read_text().endswith('\n'):
      time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

  thread = threading.Thread(target=stop)
  thread.start()
  with pytest.raises(SystemExit) as caught:
    runner.run_all([run], lambda: None)
  thread.join()
  assert caught.value.code == 128 + signal.SIGTERM
  with pytest.raises(ProcessLookupError):
    os.kill(int(log.read_text()), 0)


def test_the_time_left_is_what_finished_runs_took(tmp_path):
  table = paper.table('1')
  options = plan.Options(tmp_path, seeds=(0, 1))
  runs = plan.select(plan.expand(table, options), ['dbdc', 'unet_lb'])
  clock = runner.Clock(runs)
  assert clock.left(runs) is None
  unet, dbdc = runs[0], runs[2]
  clock.add(unet, 10.0)
  # Nothing is known of dbdc yet: as long as the others.
  assert clock.left([runs[1], dbdc]) == 20.0
  clock.add(dbdc, 100.0)
  assert clock.left([runs[1], runs[3]]) == 110.0
