"""Whole runs: phantom to scores, resumed, repeated, without peeking."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import tiny

from configs import abdomen
from data.formats.nifti import read_nifti, write_nifti
from data.task import ABDOMEN
from dbdc_jax import methods
from dbdc_jax.inference import trained_run
from dbdc_jax.ops import optimizer
from dbdc_jax.runtime import parallel
from dbdc_jax.training import epoch_metrics, step, train
from dbdc_jax.workdir import checkpoint, run_record
from dbdc_jax.workdir.metric_writer import read_rows


def _state(workdir):
  """The newest checkpoint as it lies on the disk."""
  return checkpoint.read(workdir)


def test_run_writes_every_output(trained):
  workdir, results, epochs = trained
  for name in (
    'results.json',
    'results.csv',
    'metrics.jsonl',
    'progress.png',
    'split.json',
    'config.json',
    'run.json',
  ):
    assert (workdir / name).stat().st_size > 0
  assert len(list((workdir / 'overlays').glob('*.png'))) == 2
  assert any((workdir / 'tensorboard').iterdir())
  assert not list(workdir.rglob('*partial*'))
  assert json.loads((workdir / 'results.json').read_text()) == results
  assert [row['epoch'] for row in epochs] == [1, 2, 3]
  assert set(results['modalities']) == {'ct', 'mr'}
  for entry in results['modalities'].values():
    for values in entry['native_grid']['classes'].values():
      assert values['dice'] is None or 0 <= values['dice'] <= 100


@pytest.mark.parametrize('where', ['on the devices', 'decoded each time'])
def test_a_run_is_the_same_wherever_its_slices_are(
  where, trained, cache, tmp_path, monkeypatch
):
  config = tiny.heart_config(cache)
  if where == 'on the devices':
    monkeypatch.setattr(parallel, 'room', lambda: 1e12)
  else:
    config.data.memory_limit_gib = 1e-4
  train.train(config, tmp_path)
  assert tiny.same(_state(tmp_path), _state(trained[0]))
  rows = tiny.rows_without_clocks(tmp_path)
  assert rows == tiny.rows_without_clocks(trained[0])


def test_rows_hold_every_term_weight_and_kept_share(trained):
  rows = read_rows(trained[0])
  assert [row['step'] for row in rows] == sorted({r['step'] for r in rows})
  for name in ('sup_ce', 'sup_dice', 'sup_pseg', 'sup_mc', 'sup_pc', 'sup_pd'):
    assert np.isfinite(rows[-1][f'{name}/ct'])
  assert rows[0]['ipc_ce/mr'] == 0 < rows[-1]['ipc_ce/mr']
  assert rows[0]['fpc_ce/mr'] == 0 < rows[-1]['fpc_ce/mr']
  assert np.isclose(rows[-1]['weight/ct'] + rows[-1]['weight/mr'], 2)
  assert 0 <= rows[-1]['kept/ct/background'] <= 1
  assert rows[-1]['validation_dice_mean'] > 0


def test_eval_only_gives_the_same_scores(trained, cache):
  workdir, results, _ = trained
  config = tiny.heart_config(cache)
  config.eval_only = True
  again = train.train(config, workdir)
  assert again['modalities'] == results['modalities']
  assert again['cases'] == results['cases']


def test_resumed_run_equals_the_uninterrupted_one(trained, cache, tmp_path):
  class Stopped(Exception):  # noqa: N818
    pass

  def stop(row):
    if row['epoch'] == 2:
      raise Stopped

  workdir = tmp_path / 'resumed'
  with pytest.raises(Stopped):
    train.train(tiny.heart_config(cache), workdir, stop)
  train.train(tiny.heart_config(cache), workdir)
  assert tiny.same(_state(workdir), _state(trained[0]))
  assert tiny.rows_without_clocks(workdir) == tiny.rows_without_clocks(
    trained[0]
  )


def test_other_settings_are_refused_with_the_difference(trained, cache):
  config = tiny.heart_config(cache)
  config.mpcl.delta = 0.5
  with pytest.raises(ValueError, match=r'mpcl.delta: 0.1 -> 0.5'):
    train.train(config, trained[0])


def test_other_scans_or_another_split_are_refused(trained, cache, tmp_path):
  config = tiny.heart_config(cache)
  config.phantom.seed = 5
  with pytest.raises(ValueError, match=r'phantom.seed: 0 -> 5'):
    train.train(config, trained[0])
  # The same folder with other scans in it.
  (source,) = pathlib.Path(cache).glob('phantom*heart*')
  record = json.loads((trained[0] / 'run.json').read_text())
  assert source.exists() and record['data']['ct']['cases'] == 5
  changed = record['data'] | {'ct': record['data']['ct'] | {'cases': 4}}
  with pytest.raises(ValueError, match=r'ct.cases: 5 -> 4'):
    run_record.check_data(trained[0], changed)
  # Patients of another split were trained on.
  split = json.loads((trained[0] / 'split.json').read_text())
  split['ct']['test'], split['ct']['validation'] = (
    split['ct']['validation'],
    split['ct']['test'],
  )
  (tmp_path / 'split.json').write_text(json.dumps(split))
  config = tiny.heart_config(cache)
  config.eval_only, config.data.split = True, str(tmp_path / 'split.json')
  with pytest.raises(ValueError, match='differs from'):
    train.train(config, trained[0])


def test_a_run_that_never_began_does_not_block_its_workdir(cache, tmp_path):
  config = tiny.heart_config(cache)
  config.weighting.clip = 'half'
  with pytest.raises(ValueError, match='half'):
    train.train(config, tmp_path)
  problem = methods.resolve(tiny.heart_config(cache))
  run_record.check_resumable(tmp_path, problem)
  config = tiny.heart_config(cache)
  config.eval_only = True
  with pytest.raises(ValueError, match='no run in'):
    train.train(config, tmp_path)


def test_init_from_takes_over_weights_and_memory(trained, cache, tmp_path):
  config = tiny.heart_config(cache)
  config.init_from = str(trained[0])
  config.optimizer.learning_rate = 0.0
  config.epochs = 1
  train.train(config, tmp_path / 'more')
  best = json.loads((trained[0] / 'results.json').read_text())
  step = best['run']['networks']['ct,mr']['best_step']
  start = checkpoint.read(trained[0], step)
  assert tiny.same(_state(tmp_path / 'more')['params'], start['params'])
  config.model.width = 4
  with pytest.raises(ValueError, match='differs from this config'):
    train.train(config, tmp_path / 'wider')


def test_supervised_trains_one_network_per_modality(cache, tmp_path):
  config = tiny.heart_config(cache, 'method=supervised')
  config.epochs = 1
  results = train.train(config, tmp_path / 'lb')
  assert set(results['run']['networks']) == {'ct', 'mr'}
  assert {case['modality'] for case in results['cases']} == {'ct', 'mr'}
  for modality in ('ct', 'mr'):
    assert (tmp_path / 'lb' / modality / 'checkpoints').is_dir()
  # Each has its own validation scans choose, and keeps what they chose.
  loaded = trained_run.load(tmp_path / 'lb').components
  facts = results['run']['networks']
  assert loaded == {name: facts[name]['components'][name] for name in facts}
  assert loaded['ct'] != loaded['mr']
  # Each network starts from its own modality's weights.
  config.init_from = str(tmp_path / 'lb')
  config.optimizer.learning_rate = 0.0
  train.train(config, tmp_path / 'more')
  for modality in ('ct', 'mr'):
    before, after = (_state(tmp_path / r / modality) for r in ('lb', 'more'))
    assert tiny.same(before['params'], after['params'])


def test_upper_bound_and_one_modality_run_without_unlabelled_scans(
  cache, tmp_path, capsys
):
  config = tiny.heart_config(cache)
  config.modalities, config.labeled_fraction = 'mr', 1.0
  config.epochs = 1
  results = train.train(config, tmp_path)
  assert set(results['modalities']) == {'mr'}
  out = capsys.readouterr().out
  assert 'dual consistency in mr: no unlabelled scans' in out
  assert 'there is one modality' in out


def test_networks_whose_labels_name_the_same_classes_share_a_program():
  """One network per modality: built, traced and compiled once."""
  config = abdomen.get_config('method=supervised')
  names = [modality.name for modality in ABDOMEN.modalities]

  def built(joint):
    whole = methods.resolve(config)
    parts = whole.networks(joint)
    return [train._method(whole, part, joint) for part in parts]

  first, *others = built(joint=False)
  assert len(others) == len(names) - 1
  assert all(method is first for method in others)
  config.model.width = 3
  assert built(joint=False)[0] is not first
  # One that takes them all is of its own modalities.
  config = abdomen.get_config()
  config.modalities = 'ct,t2'
  (one,) = built(joint=True)
  config.modalities = 't2,ct'
  (other,) = built(joint=True)
  assert other is not one
  assert step.make_step(one) is step.make_step(one)
  only = step.make_step(one, np.array([True, False]))
  assert only is not step.make_step(one, np.array([False, True]))


def _scramble(root, names, rng):
  """Other classes for the foreground of some heart labels."""
  codes = np.array([500, 600, 420, 550, 205, 820, 850], np.int16)
  for name in names:
    kind = name.split('_')[0]
    path = root / f'{kind}_train' / f'{name}_label.nii.gz'
    label = read_nifti(path, label=True)
    voxels = label.voxels.astype(np.int16)
    inside = voxels > 0
    voxels[inside] = rng.choice(codes, inside.sum())
    write_nifti(path, voxels, label.affine)


def test_labels_that_count_as_unlabelled_never_reach_training(
  trained, cache, tmp_path
):
  """No peeking: scrambling them changes no bit of the weights."""
  (source,) = pathlib.Path(cache).glob('phantom*heart*')
  split = json.loads((trained[0] / 'split.json').read_text())
  hidden = [n for parts in split.values() for n in parts['unlabeled']]
  assert hidden
  shutil.copytree(source, tmp_path / 'scans')
  root = tmp_path / 'scans' / 'mmwhs'
  _scramble(root, hidden, np.random.default_rng(0))
  config = tiny.heart_config(cache)
  config.data.mmwhs = str(root)
  train.train(config, tmp_path / 'blind')
  assert tiny.same(_state(tmp_path / 'blind'), _state(trained[0]))


def _abdomen(cache):
  config = tiny.shrink(abdomen.get_config(None), cache)
  config.modalities = 'ct,t2'
  config.epochs, config.dc.warmup_epochs = 1, 0
  return config


def _shuffle_abdomen_labels(root, split, rng):
  """Permutes the voxels of every label that counts as unlabelled."""
  for name in split['ct']['unlabeled']:
    path = root / 'btcv/RawData/Training/label' / f'label{name[3:]}.nii.gz'
    label = read_nifti(path, label=True)
    voxels = rng.permutation(label.voxels.ravel()).reshape(label.voxels.shape)
    write_nifti(path, voxels.astype(np.uint8), label.affine)
  for name in split['t2']['unlabeled']:
    patient = name.split('_')[0]
    ground = root / 'chaos/Train_Sets/MR' / patient / 'T2SPIR/Ground'
    for path in sorted(ground.glob('*.png')):
      grey = np.asarray(Image.open(path))
      Image.fromarray(rng.permutation(grey.ravel()).reshape(grey.shape)).save(
        path
      )


def test_the_abdomens_hidden_labels_may_be_anything_at_all(cache, tmp_path):
  """Without a region of interest nothing of them is looked at."""
  train.train(_abdomen(cache), tmp_path / 'run')
  split = json.loads((tmp_path / 'run' / 'split.json').read_text())
  assert split['ct']['unlabeled'] and split['t2']['unlabeled']
  (source,) = pathlib.Path(cache).glob('phantom*abdomen*')
  shutil.copytree(source, tmp_path / 'scans')
  _shuffle_abdomen_labels(tmp_path / 'scans', split, np.random.default_rng(0))
  config = _abdomen(cache)
  config.data.btcv = str(tmp_path / 'scans' / 'btcv')
  config.data.chaos = str(tmp_path / 'scans' / 'chaos')
  train.train(config, tmp_path / 'blind')
  fingerprints = [
    json.loads((tmp_path / name / 'run.json').read_text())['data']['hash']
    for name in ('run', 'blind')
  ]
  assert fingerprints[0] == fingerprints[1]
  assert tiny.same(_state(tmp_path / 'blind'), _state(tmp_path / 'run'))


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
  trained, cache, tmp_path, monkeypatch
):
  """The second epoch's learning rate is infinite."""
  workdir = tmp_path / 'run'
  rate = optimizer.learning_rate

  def explode(first, left, power):
    # The first of three epochs has more than two thirds in front of it.
    return rate(first, left, power) if left > 0.667 else jnp.inf

  monkeypatch.setattr(optimizer, 'learning_rate', explode)
  with pytest.raises(
    epoch_metrics.NonFiniteLossError, match=r'sup_\w+ of modality (ct|mr)'
  ) as caught:
    train.train(tiny.heart_config(cache), workdir)
  (row,) = read_rows(workdir)
  assert f'step {row["step"] + 2}:' in str(caught.value)
  state = _state(workdir)
  assert state['step'] == row['step']
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state['params']))


def test_real_scans_go_in_and_scores_come_out(scans, cache, tmp_path):
  """Three patients of each archive, by links into a folder of our own."""
  btcv = tmp_path / 'scans' / 'btcv' / 'RawData' / 'Training'
  source = scans / 'btcv' / 'RawData' / 'Training'
  for kind in ('img', 'label'):
    (btcv / kind).mkdir(parents=True)
    for path in sorted((source / kind).iterdir())[:3]:
      (btcv / kind / path.name).symlink_to(path)
  patients = tmp_path / 'scans' / 'chaos' / 'Train_Sets' / 'MR'
  patients.mkdir(parents=True)
  found = sorted((scans / 'chaos' / 'Train_Sets' / 'MR').iterdir())
  for path in found[:3]:
    (patients / path.name).symlink_to(path)
  argument = f'scans={tmp_path / "scans"}'
  config = tiny.shrink(abdomen.get_config(argument), cache)
  config.modalities = 'ct,t2'
  config.epochs = 1
  results = train.train(config, tmp_path / 'run')
  assert results['modalities']['ct']['test_cases'] == 1
  assert (tmp_path / 'run' / 'progress.png').exists()
