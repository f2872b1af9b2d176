"""Several processes share a run; one dies; another number of them goes on."""

import signal

import distributed
import numpy as np
import pytest
import tiny

from dbdc_jax.runtime import parallel
from dbdc_jax.training import train
from dbdc_jax.workdir import checkpoint

# Process 1 is killed in the second epoch.
DIES = """
import os, signal, sys
from dbdc_jax.workdir.metric_writer import MetricWriter

progress = MetricWriter.progress
def replaced(self, step, text):
  if step == 9 and '--process_id=1' in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
  progress(self, step, text)
MetricWriter.progress = replaced

import runpy
sys.argv[0] = 'main'
runpy.run_module('dbdc_jax.main', run_name='__main__', alter_sys=True)
"""


def test_a_process_that_dies_ends_the_others_and_one_goes_on(
  plain, cache, tmp_path
):
  """That DBDC's steps are the same on two processes is in step_test."""
  workdir = tmp_path / 'run'

  def arguments(index, at):
    shared = ['--config', 'configs/heart.py', '--workdir', str(workdir)]
    who = [f'--coordinator={at}', '--num_processes=2', f'--process_id={index}']
    return ['-c', DIES, *shared, *who, *tiny.flags(cache, **tiny.PLAIN)]

  lead, other = distributed.start(2, arguments)
  silent, _ = other.communicate(timeout=500)
  assert other.returncode == -signal.SIGKILL, silent
  # It notices after 30 s; more is this machine's business.
  text, _ = lead.communicate(timeout=120)
  assert lead.returncode not in (0, -signal.SIGKILL)
  assert 'does not answer' in text or 'another task died' in text
  assert '4 x cpu in 2 processes' in text
  # The other one wrote nothing and printed no second banner.
  assert 'labeled scans' in text and 'labeled scans' not in silent
  assert checkpoint.steps(workdir) == [6]
  # One process with four devices takes over: the same run to rounding.
  train.train(tiny.plain_config(cache), workdir)
  rows = tiny.rows_without_clocks(workdir)
  expected = tiny.rows_without_clocks(plain)
  assert [row['step'] for row in rows] == [6, 12, 18]
  for name, value in expected[0].items():
    if isinstance(value, float):
      np.testing.assert_allclose(rows[0][name], value, atol=1e-4, err_msg=name)
  assert abs(rows[-1]['loss'] - expected[-1]['loss']) < 0.05


def test_an_incomplete_description_of_the_processes_is_refused():
  for given in (('auto', 2, 0), ('localhost:1', None, 0), ('localhost:1', 2)):
    with pytest.raises(ValueError, match='--num_processes and --process_id'):
      parallel.start(*given)


def test_one_process_agrees_with_itself():
  assert parallel.gather({'a': 1}) == [{'a': 1}]
  assert parallel.from_lead(lambda: 3) == 3
  parallel.agree('anything', [1])
  with pytest.raises(KeyError):
    parallel.from_lead(lambda: {}['missing'])
