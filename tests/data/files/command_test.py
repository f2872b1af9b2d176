"""What all commands do alike, as a user meets it."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import tmpfs

from data.files import command, errors
from data.formats.scan_error import ScanError

COMMANDS = {
  'data.phantom': '--task heart --out {out}',
  'data.prepare': '--check {out}',
  'dbdc_jax.benchmark': '--steps',
  'dbdc_jax.evaluate': '--prediction {out} --reference x --output {out}',
  'dbdc_jax.experiment': '--table 1 --dry-run --output {out}',
  'dbdc_jax.export': '--run {out} --output {out}/o',
  'dbdc_jax.main': '--config configs/heart.py --workdir {out}',
  'dbdc_jax.predict': '--run x --modality ct --input {out} --output {out}',
  'dbdc_jax.report': '{out}',
}


def _start(name, *arguments):
  # What a shell runs in the background inherits that Ctrl-C is ignored.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    return subprocess.Popen(
      [sys.executable, '-m', name, *arguments],
      cwd=tmpfs.ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
  finally:
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize('name', COMMANDS)
def test_help_ends_with_0_and_says_what_the_command_is_for(name):
  with _start(name, '--help') as process:
    out, err = process.communicate()
  assert process.returncode == 0 and not err
  assert f'python -m {name}' in out


@pytest.mark.parametrize('name', COMMANDS)
def test_a_reader_that_goes_away_is_no_error_to_be_told(name):
  with _start(name, '--help') as process:
    process.stdout.close()
    assert process.stderr.read() == ''
  # argparse does not mind if nothing is buffered.
  assert process.returncode in (0, 1)


def test_work_whose_output_nobody_reads_ends_quietly():
  code = """
import sys
from data.files import command
def work():
  for number in range(100_000):
    print(number)
command.leave(command.guard(work))
"""
  with subprocess.Popen(
    [sys.executable, '-c', code],
    cwd=tmpfs.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    assert process.stdout.readline() == '0\n'
    process.stdout.close()
    assert process.stderr.read() == ''
  assert process.returncode == 1


@pytest.mark.parametrize('name', COMMANDS)
def test_a_wrong_flag_ends_with_2(name):
  with _start(name, '--no-such-flag') as process:
    _, err = process.communicate()
  assert process.returncode == 2
  assert 'Traceback' not in err and 'error' in err


def _loads(process, library):
  """Waits until a process has begun to load a library of C."""
  maps = pathlib.Path(f'/proc/{process.pid}/maps')
  while library not in maps.read_text():
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.005)


@pytest.mark.skipif(not os.path.exists('/proc/self/maps'), reason='no /proc')
@pytest.mark.parametrize('name', COMMANDS)
def test_ctrl_c_while_libraries_load_is_one_line(name, tmp_path):
  out = tmp_path / 'out'
  with _start(name, *COMMANDS[name].format(out=out).split()) as process:
    _loads(process, 'numpy')
    process.send_signal(signal.SIGINT)
    printed, err = process.communicate()
  assert process.returncode == command.INTERRUPTED, err
  assert err.splitlines() == [err.strip()] and err.startswith('stopped: ')
  assert not printed and not out.exists()


def test_ctrl_c_while_files_are_written_leaves_none(tmp_path):
  flags = ['--task', 'heart', '--out', str(tmp_path / 'out')]
  with _start('data.phantom', *flags) as process:
    while not list(tmp_path.glob('.partial*/mmwhs/*/*')):
      assert process.poll() is None
      time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    # Impatience does not keep it from tidying up.
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
  assert process.returncode == command.INTERRUPTED
  assert err.splitlines()[-1].startswith('stopped: ')
  assert 'Traceback' not in err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('number', 'remedy'),
  [
    (errno.EACCES, 'permissions'),
    (errno.EISDIR, 'give a file'),
    (errno.ENAMETOOLONG, 'a shorter name'),
    (errno.ENOENT, 'check the path'),
    (errno.ENOSPC, 'bytes free); make room there'),
    (errno.ENOTDIR, 'a part of this path is a file'),
    (errno.EROFS, 'choose another place'),
  ],
)
def test_an_error_of_the_system_names_the_path_and_the_remedy(
  number, remedy, tmp_path, capsys
):
  place = str(tmp_path / 'a' / 'b')

  def fail():
    raise OSError(number, os.strerror(number), place)

  assert command.guard(fail) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f'error: {place}: {os.strerror(number)}')
  assert remedy in line


def test_a_text_of_our_own_is_told_as_it_is():
  for error in (
    OSError('nothing more'),
    OSError(errno.ENOSPC, 'no room: 3 bytes free; go on', 'x'),
    ValueError('a=1: choose 2'),
  ):
    text = errors.sentence(error)
    assert text in (
      'nothing more',
      'x: no room: 3 bytes free; go on',
      str(error),
    )
    assert text.count('room') <= 1


def _raise(error):
  raise error


def test_what_ends_a_command_is_its_exit_code(capsys, monkeypatch):
  assert command.guard(lambda: None) == command.guard(lambda: 0) == 0
  assert command.guard(lambda: 1) == 1
  assert command.guard(lambda: _raise(ValueError('a: b'))) == 1
  assert command.guard(lambda: _raise(ScanError('x', 'is y', 'do z'))) == 1
  said = capsys.readouterr().err.splitlines()
  assert said == [
    'error: a: b',
    '  file | reason | remedy',
    '  x | is y | do z',
  ]
  with pytest.raises(ZeroDivisionError):  # A mistake of the program.
    command.guard(lambda: 1 // 0)
  monkeypatch.setenv('DBDC_TRACEBACK', '1')
  with pytest.raises(ValueError, match='a: b'):
    command.guard(lambda: _raise(ValueError('a: b')))


def test_what_a_terminal_could_obey_is_escaped(capsys):
  command.guard(lambda: _raise(ValueError('a\x1b[2J\nb')))
  assert capsys.readouterr().err == 'error: a%1B[2J\nb\n'


@pytest.fixture
def interruptible():
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_a_library_turned_into_an_error_is_one(
  interruptible, capsys
):
  def work():
    try:
      signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
      signal.raise_signal(signal.SIGINT)  # While it tidies up.
      raise ImportError('a library did not load') from None

  assert command.guard(work) == command.INTERRUPTED
  assert capsys.readouterr().err.startswith('stopped: ')
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_the_background_ctrl_c_stays_ignored(interruptible):
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  assert command.guard(lambda: signal.raise_signal(signal.SIGINT)) == 0
  assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
