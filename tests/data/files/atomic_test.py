import errno
import json
import os
import signal
import subprocess
import sys

import pytest
import tmpfs

from data.files import atomic
from data.phantoms import phantom


def _filling(target, done=lambda: False):
  return atomic.filling(target, done)


def _names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_a_filled_folder_appears_at_the_end(tmp_path):
  with _filling(tmp_path / 'new' / 'a') as folder:
    (folder / 'x').write_text('1')
    assert not (tmp_path / 'new' / 'a').exists()
  assert _names(tmp_path / 'new') == ['a']
  assert _names(tmp_path / 'new' / 'a') == ['x']


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit, ValueError])
def test_whatever_ends_the_filling_nothing_stays(error, tmp_path):
  with pytest.raises(error), _filling(tmp_path / 'a') as folder:
    (folder / 'x').write_text('1')
    raise error
  assert not _names(tmp_path)


def test_termination_is_an_exit_that_tidies_up(tmp_path):
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(SystemExit) as caught, _filling(tmp_path / 'a'):
    os.kill(os.getpid(), signal.SIGTERM)
  assert caught.value.code == 128 + signal.SIGTERM
  assert signal.getsignal(signal.SIGTERM) is before
  assert not _names(tmp_path)


def test_a_program_that_handles_termination_keeps_its_handler(tmp_path):
  seen = []
  before = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
  try:
    with _filling(tmp_path / 'a'):
      os.kill(os.getpid(), signal.SIGTERM)
  finally:
    signal.signal(signal.SIGTERM, before)
  assert seen and _names(tmp_path) == ['a']


def test_somebody_else_may_finish_first_but_must_finish(tmp_path):
  target = tmp_path / 'a'
  target.mkdir()
  (target / 'theirs').write_text('1')
  with _filling(target, lambda: True) as folder:
    (folder / 'ours').write_text('1')
  with (
    pytest.raises(FileExistsError, match='not finished'),
    _filling(target) as folder,
  ):
    (folder / 'ours').write_text('1')
  assert _names(tmp_path) == ['a'] and _names(target) == ['theirs']


def test_what_the_dead_left_behind_is_removed_and_the_living_keep_theirs(
  tmp_path,
):
  target = tmp_path / 'a'
  dead, fresh = tmp_path / '.partial-a-1', tmp_path / '.partial-a-2'
  other = tmp_path / '.partial-b-1'
  for folder in (dead, other, fresh):
    folder.mkdir()
  for folder in (dead, other):
    os.utime(folder, (0, 0))
  with _filling(target) as living:
    os.utime(living, (0, 0))
    with _filling(target, lambda: True):
      assert living.is_dir()
  assert _names(tmp_path) == sorted(['a', fresh.name, other.name])


def test_json_is_written_whole_or_not_at_all(tmp_path):
  path = tmp_path / 'a.json'
  atomic.write_json(path, {'ä': [1, None]})
  before = path.read_bytes()
  assert json.loads(before) == {'ä': [1, None]}
  with pytest.raises(ValueError, match='JSON'):
    atomic.write_json(path, {'a': float('nan')})
  assert path.read_bytes() == before
  assert os.listdir(tmp_path) == ['a.json']


def test_an_error_of_the_disk_names_the_target_and_others_stay(tmp_path):
  target = tmp_path / 'a'
  with (
    pytest.raises(OSError, match=f'room there.*{target}') as caught,
    _filling(target),
  ):
    raise OSError(errno.ENOSPC, 'full')
  assert caught.value.errno == errno.ENOSPC
  with pytest.raises(FileNotFoundError, match='elsewhere'), _filling(target):
    (tmp_path / 'elsewhere' / 'x').read_text()
  with pytest.raises(OSError, match='blocked'):
    (tmp_path / 'blocked').write_text('')
    with _filling(tmp_path / 'blocked' / 'a'):
      pass


FULL = """
import os, pathlib
from data import preparation
from data.phantoms import phantom
from data.task import HEART

disk = pathlib.Path({disk!r})

def fill(left):
  stat = os.statvfs(disk)
  (disk / 'filler').write_bytes(bytes(stat.f_bavail * stat.f_frsize - left))

def left():
  return sorted(p.name for p in disk.rglob('*') if p.name != 'filler')

def write():
  phantom.write(
    'heart', disk / 'phantom', subjects=1, size='tiny', quiet=True
  )

def prepared():
  return preparation.prepare(
    HEART, HEART.modalities, {{'mmwhs': {root!r}}}, slice_size=64, roi='none',
    cache=str(disk / 'cache'), quiet=True,
  )

for run, target, spaces in (
  (write, 'phantom', (0, 30_000)),
  (prepared, 'cache', (0, 60_000, {almost})),
):
  for space in spaces:
    fill(space)
    before = left()
    try:
      run()
    except OSError as error:
      assert f'{{disk}}/{{target}}' in str(error), error
      assert 'No space left on device' in str(error), error
    else:
      raise AssertionError((target, space))
    (disk / 'filler').unlink()
    assert set(left()) <= {{*before, 'cache'}}, left()
  run()
print(len(prepared().cases), 'cases')
"""


@pytest.fixture(scope='module')
def heart(tmp_path_factory):
  out = tmp_path_factory.mktemp('scans') / 'heart'
  phantom.write('heart', out, subjects=2, size='tiny', quiet=True)
  return out / 'mmwhs'


def test_a_full_disk_is_named_leaves_nothing_and_can_be_mended(heart, tmp_path):
  disk = tmp_path / 'disk'
  disk.mkdir()
  code = FULL.format(disk=str(disk), root=str(heart), almost=300_000)
  done = tmpfs.run_on_tmpfs(code, '4m', disk)
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == ['4', 'cases']


# Tests that a shell runs in the background inherit that Ctrl-C is ignored.
SLOW = """
import os, signal, time
from data import prepare
from data.preprocessing import preprocess
signal.signal(signal.SIGINT, signal.default_int_handler)
plain = preprocess.prepare_scan

def slow(*args, **kwargs):
  os.write(1, b'.')
  time.sleep({seconds})
  return plain(*args, **kwargs)

preprocess.prepare_scan = slow
raise SystemExit(prepare.main({flags!r}))
"""


@pytest.mark.parametrize(
  'number, code', [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)]
)
def test_a_command_that_is_stopped_leaves_no_file_and_no_process(
  number, code, heart, tmp_path
):
  cache = tmp_path / 'cache'
  flags = ['--task', 'heart', '--root', f'mmwhs={heart}', '--cache', str(cache)]
  with subprocess.Popen(
    [sys.executable, '-c', SLOW.format(seconds=60, flags=flags)],
    stdout=subprocess.PIPE,
    bufsize=0,
    stderr=subprocess.DEVNULL,
    cwd=tmpfs.ROOT,
    start_new_session=True,
  ) as process:
    assert process.stdout.read(1) == b'.'
    assert any(cache.iterdir())
    process.send_signal(number)
    assert process.wait(30) == code
  assert not any(cache.iterdir())
  with pytest.raises(ProcessLookupError):
    os.killpg(process.pid, 0)
