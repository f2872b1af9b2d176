"""Whatever happens to a run: it ends with the bits of the undisturbed one."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import types

import numpy as np
import pytest
import tiny
import tmpfs

from data.files import errors
from dbdc_jax.inference import trained_run
from dbdc_jax.runtime import parallel
from dbdc_jax.training import train
from dbdc_jax.workdir import checkpoint, run_record
from dbdc_jax.workdir.metric_writer import read_rows

ROOT = pathlib.Path(__file__).parents[1]
# Put before the command: what happens to the run, and when.
HIT = """
import os, signal, sys, threading, time
from dbdc_jax.inference import prepared_cases
from dbdc_jax.training import loop, step
from dbdc_jax.workdir import checkpoint
from dbdc_jax.workdir.metric_writer import MetricWriter

def hit(number):
  os.kill(os.getpid(), number)
  time.sleep(60)

def before(owner, name, condition, number):
  original = getattr(owner, name)
  def replaced(*args, **kwargs):
    if condition(*args):
      hit(number)
    return original(*args, **kwargs)
  setattr(owner, name, replaced)

KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
"""
RUN = """
import runpy
sys.argv[0] = 'main'
runpy.run_module('dbdc_jax.main', run_name='__main__', alter_sys=True)
"""
IN_A_STEP = "before(MetricWriter, 'progress', lambda w, s, t: s == 9, KILL)"
IN_A_SAVE = """
save = checkpoint.Checkpoints.save
def saved(self, number, *args):
  save(self, number, *args)
  if number == 12:
    hit(KILL)  # The files are being written by a thread.
checkpoint.Checkpoints.save = saved
"""
IN_VALIDATION = """
before(prepared_cases.sliding_window, 'joint_histograms', lambda *a: True, KILL)
"""


def _start(happening, workdir, cache, env=None, **fields):
  """The command in a process group of its own, to which something happens."""
  arguments = ['--config', 'configs/heart.py', '--workdir', str(workdir)]
  return subprocess.Popen(
    [
      sys.executable,
      '-c',
      HIT + textwrap.dedent(happening) + RUN,
      *arguments,
      *tiny.flags(cache, **tiny.PLAIN, **fields),
    ],
    cwd=ROOT,
    env={**os.environ, **(env or {})},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )


def _alive(group):
  """Whether any process of a group is left."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(group, 0)
    return True
  return False


def _equal_runs(workdir, other):
  assert tiny.same(checkpoint.read(workdir), checkpoint.read(other))
  rows = tiny.rows_without_clocks(workdir)
  assert rows == tiny.rows_without_clocks(other)
  assert len({row['step'] for row in rows}) == len(rows) == 3


def test_killed_in_a_step_a_save_and_validation_the_run_ends_the_same(
  plain, cache, tmp_path
):
  """kill -9 three times, the same command each time: no bit differs.

  DBDC's state, whole, is resumed in integration_test.
  """
  workdir = tmp_path / 'run'
  for happening in (IN_A_STEP, IN_A_SAVE, IN_VALIDATION):
    process = _start(happening, workdir, cache)
    text, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, text
    assert not (workdir / 'results.json').exists()
  train.train(tiny.plain_config(cache), workdir)
  _equal_runs(workdir, plain)
  assert not list((workdir / 'checkpoints').glob('*tmp*'))


STOPS = {
  'compiling': (
    'JAX_ENABLE_COMPILATION_CACHE',
    """
    make_step = loop.make_step
    def make(*args):
      step_fn = make_step(*args)
      def first(*args):
        # In the middle of the compiler's half minute.
        threading.Timer(1, os.kill, (os.getpid(), TERM)).start()
        return step_fn(*args)
      return first
    loop.make_step = make
    """,
    143,
    'no checkpoint was complete yet',
  ),
  'in a step': (
    '',
    "before(MetricWriter, 'progress', lambda w, s, t: s == 9, TERM)",
    143,
    'checkpoints/6',
  ),
  'waiting for data': (
    '',
    """
    import queue
    def nothing(self, start, stop):
      threading.Timer(1, os.kill, (os.getpid(), INT)).start()
      yield queue.Queue().get()
    loop.feed.Feed.iterate = nothing
    """,
    130,
    'no checkpoint was complete yet',
  ),
  'in validation': (
    '',
    IN_VALIDATION.replace('KILL', 'TERM'),
    143,
    'checkpoints/6',
  ),
}


@pytest.mark.parametrize('moment', STOPS)
def test_told_to_stop_a_run_says_what_stands_and_leaves_nobody(
  moment, plain, cache, tmp_path
):
  variable, happening, code, text = STOPS[moment]
  env = {variable: 'false'} if variable else {}
  process = _start(happening, tmp_path / 'run', cache, env)
  out, _ = process.communicate(timeout=300)
  assert process.returncode == code, out
  assert 'stopped by SIG' in out and text in out
  assert 'Traceback' not in out
  assert not _alive(process.pid)
  assert not [p for p in tmp_path.rglob('*partial*')]
  assert plain


def test_two_runs_do_not_share_a_workdir(cache, tmp_path):
  with (
    run_record.owned(tmp_path),
    pytest.raises(ValueError, match=f'in use by process {os.getpid()} on'),
  ):
    train.train(tiny.heart_config(cache), tmp_path)
  with run_record.owned(tmp_path):
    pass


def test_a_damaged_last_checkpoint_costs_an_epoch_and_not_the_run(
  plain, cache, tmp_path, capsys
):
  workdir = tmp_path / 'run'
  shutil.copytree(plain, workdir)
  last = checkpoint.steps(workdir)[-1]
  files = sorted((workdir / f'checkpoints/{last}').rglob('d/*'))
  biggest = max(files, key=lambda path: path.stat().st_size)
  biggest.write_bytes(biggest.read_bytes()[:100])
  train.train(tiny.plain_config(cache), workdir)
  assert 'is damaged' in capsys.readouterr().out
  assert (workdir / 'checkpoints_damaged' / str(last)).is_dir()
  _equal_runs(workdir, plain)


def test_what_may_differ_on_a_resume_and_what_may_not(plain, cache, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(plain, workdir)
  config = tiny.plain_config(cache)

  def check(names, classes):
    wanted = types.SimpleNamespace(config=config, names=names, classes=classes)
    return run_record.check_resumable(workdir, wanted)

  record = json.loads((workdir / 'run.json').read_text())
  names, classes = record['modalities'], record['classes']
  # The same modalities, said in another way; more epochs; other logging.
  config.modalities, config.epochs = 'ct,mr', 9
  config.evaluation.overlays = 7
  (note,) = check(names, classes)
  assert 'epochs: 3 -> 9' in note and 'learning rate' in note
  with pytest.raises(ValueError, match='modalities: ct, mr -> mr, ct'):
    check(names[::-1], classes)
  with pytest.raises(ValueError, match='classes: background, left'):
    check(names, classes[:-1])
  config.epochs = 2
  with pytest.raises(ValueError, match=r'epochs: 3 -> 2 \(fewer\)'):
    check(names, classes)
  (workdir / 'config.json').write_text('{"epochs": ')
  with pytest.raises(ValueError, match=r'config.json: not readable'):
    check(names, classes)


def test_what_was_chosen_is_of_the_checkpoint_that_was_tested(
  plain, cache, tmp_path
):
  workdir = tmp_path / 'run'
  shutil.copytree(plain, workdir)
  before = json.loads((workdir / 'results.json').read_text())
  (facts,) = before['run']['networks'].values()
  assert trained_run.load(workdir).components == facts['components']
  # Tested again, the other way's results are the run's; nothing else differs.
  (workdir / 'components.json').unlink()
  config = tiny.plain_config(cache)
  config.eval_only, config.evaluation.components = True, 'validation'
  again = train.train(config, workdir)
  assert again['run']['networks'] == before['run']['networks']
  assert again['mean'] == before['beside']['mean']
  assert again['beside']['mean'] == before['mean']
  loaded = trained_run.load(workdir)
  assert loaded.components == facts['components']
  assert loaded.config.evaluation.components == 'validation'
  # Trained further, it has chosen nothing until it is tested.
  config.eval_only, config.epochs = False, 4

  def stop(_):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    train.train(config, workdir, stop)
  assert trained_run.load(workdir).components == {}


def test_the_last_checkpoint_is_tested_beside_the_best(plain, cache, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(plain, workdir)
  config = tiny.plain_config(cache)
  config.eval_only = config.evaluation.last = True
  found = train.train(config, workdir)
  before = json.loads((plain / 'results.json').read_text())
  assert found['mean'] == before['mean'] and 'last' not in before
  (facts,) = found['run']['networks'].values()
  *_, last = checkpoint.steps(workdir)
  assert facts['best_step'] < last, 'the test needs two checkpoints'
  # With the best one gone, the last is what a run tests.
  shutil.rmtree(workdir / 'checkpoints' / str(facts['best_step']))
  config.evaluation.last = False
  alone = train.train(config, workdir)
  assert found['last']['mean'] == alone['mean'] != found['mean']
  assert found['last']['beside'] == alone['beside']
  lasts = [case['last'] for case in found['cases']]
  assert [case['native'] for case in lasts] == [
    case['native'] for case in alone['cases']
  ]


def _small(step):
  return parallel.place(
    {'step': np.int32(step), 'w': np.arange(4000, dtype=np.float32) * step}
  )


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """A workdir with the checkpoints of steps 1 and 2."""
  workdir = tmp_path_factory.mktemp('two')
  with checkpoint.Checkpoints(workdir) as store:
    for step in (1, 2):
      store.save(step, _small(step), step / 10)
  return workdir


def _damage(path, how):
  data = bytearray(path.read_bytes())
  if how == 'cut':
    path.write_bytes(data[: len(data) // 2])
  elif how == 'flipped':
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
  elif how == 'gone':
    path.unlink()


@pytest.mark.parametrize('how', ['cut', 'flipped', 'gone'])
def test_no_damage_of_a_checkpoint_goes_unnoticed(how, two, tmp_path):
  """Each file of the newest: the one before is used, with a warning."""
  newest = two / 'checkpoints' / '2'
  files = [p.relative_to(two) for p in newest.rglob('*') if p.is_file()]
  for number, name in enumerate(files):
    workdir = tmp_path / str(number)
    shutil.copytree(two, workdir)
    _damage(workdir / name, how)
    warnings = []
    with checkpoint.Checkpoints(workdir, warn=warnings.append) as store:
      step, arrays = store.latest(_small(0))
    assert tiny.same(arrays, _small(step)), name
    assert step == 1 and (workdir / 'checkpoints_damaged' / '2').is_dir()
    assert str(workdir) in warnings[0]


def test_all_damaged_is_an_error_and_another_runs_folder_is_left_alone(
  two, tmp_path
):
  shutil.copytree(two, tmp_path / 'run')
  before = sorted(tmp_path.rglob('*'))
  for path in (tmp_path / 'run').rglob('_CHECKPOINT_METADATA'):
    path.write_text('{')
  with pytest.raises(ValueError, match='_METADATA: not what was saved'):
    checkpoint.Checkpoints(tmp_path / 'run', read_only=True)
  assert sorted(tmp_path.rglob('*')) == before
  with (
    checkpoint.Checkpoints(tmp_path / 'run') as store,
    pytest.raises(ValueError, match='no whole checkpoint is left'),
  ):
    store.best(_small(0))


def test_no_space_is_found_out_before_a_save(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)
  with checkpoint.Checkpoints(tmp_path) as store:
    store.save(1, _small(1), None)
    store.wait()
    small = usage._replace(free=1_000_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: small)
    with pytest.raises(
      OSError, match=r'bytes needed, 1,000,000 bytes free'
    ) as caught:
      store.save(2, _small(2), None)
  assert caught.value.errno == errno.ENOSPC
  assert caught.value.filename == str(tmp_path / 'checkpoints')
  assert 'checkpoints/1 stands' in str(caught.value)
  assert 'bytes free' in errors.sentence(
    OSError(errno.ENOSPC, 'full', str(tmp_path / 'x' / 'y'))
  )


FULL = """
import errno, os, pathlib, shutil, sys
sys.path.insert(0, 'tests')
import tiny
from data.files import errors
from dbdc_jax.training import train
from dbdc_jax.workdir import checkpoint
from dbdc_jax.workdir.metric_writer import MetricWriter

disk, cache, kept = map(pathlib.Path, ({paths}))
filler, workdir = disk / 'filler', disk / 'run'

def fill(left):
  room = os.statvfs(disk)
  size = room.f_bavail * room.f_frsize - left
  filler.write_bytes(bytes(max(size, 0)))

def attempt(name):
  try:
    train.train(tiny.heart_config(cache), workdir)
  except OSError as error:
    assert error.errno == errno.ENOSPC, error
    explained = errors.sentence(error)
    assert str(workdir) in explained, explained
    assert explained.count('bytes free') == 1, explained
    assert 'same command' in explained, explained
    print('REFUSED', explained)
  else:
    raise AssertionError(name)
  filler.unlink()
  assert not list(workdir.rglob('.partial*'))
  print('STEPS', name, checkpoint.steps(workdir))

write = MetricWriter.write
def before_second_row(left):
  def replaced(self, step, epoch, *args):
    if epoch == 2:
      fill(left)
    write(self, step, epoch, *args)
  MetricWriter.write = replaced

before_second_row(400_000)
attempt('checkpoint')
before_second_row(0)
attempt('log')
# A disk that says it has room, as some network disks do.
usage = shutil.disk_usage
shutil.disk_usage = lambda path: usage(path)._replace(free=1 << 40)
before_second_row(100_000)
attempt('writing')
shutil.disk_usage, MetricWriter.write = usage, write
train.train(tiny.heart_config(cache), workdir)
fill(20_000)
attempt('picture')
train.train(tiny.heart_config(cache), workdir)
shutil.copytree(workdir, kept)
"""


def test_a_full_disk_ends_the_run_with_the_last_checkpoint_standing(
  trained, cache, tmp_path
):
  """Four times in one run, which then ends with the undisturbed one's bits."""
  (tmp_path / 'disk').mkdir()
  paths = tmp_path / 'disk', cache, tmp_path / 'kept'
  code = FULL.replace('{paths}', ', '.join(repr(str(path)) for path in paths))
  done = tmpfs.run_on_tmpfs(code, '6m', tmp_path / 'disk')
  assert done.returncode == 0, done.stdout + done.stderr
  refused = [x for x in done.stdout.splitlines() if x.startswith('REFUSED')]
  # A checkpoint is written while training goes on: on a disk that claims room,
  # the next epoch's row may be what finds it full first.
  racing = 'checkpoints', 'metrics.jsonl', 'tensorboard'
  for names, line in zip(
    (('checkpoints',), ('metrics.jsonl',), racing, ('progress.png',)),
    refused,
    strict=True,
  ):
    assert any(name in line for name in names), line
  assert 'STEPS checkpoint [6]' in done.stdout
  assert 'STEPS log [6]' in done.stdout
  assert 'STEPS writing [6]' in done.stdout
  _equal_runs(tmp_path / 'kept', trained[0])


def test_rows_of_a_run_that_went_on_are_whole(plain):
  assert [row['epoch'] for row in read_rows(plain)] == [1, 2, 3]
