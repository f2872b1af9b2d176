"""Functions here are called by other processes, which import this module."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from dbdc_jax.evaluation import case_pool


def _square_or_die(number):
  if number < 0:
    os.kill(os.getpid(), 9)
  return number**2


def _fail(number):
  raise ArithmeticError(number)


def _run(function, items, workers):
  """Each item's result, which comes once."""
  pairs = list(case_pool.run(function, items, workers, lambda n: f'lost {n}'))
  found = dict(pairs)
  assert len(pairs) == len(found) == len(items)
  return [found[index] for index in range(len(items))]


@pytest.mark.parametrize('workers', [1, 2])
def test_every_item_has_its_result(workers):
  items = list(range(5, 0, -1))
  assert _run(_square_or_die, items, workers) == [25, 16, 9, 4, 1]
  assert _run(_square_or_die, [], workers) == []


def test_a_killed_process_costs_its_own_items_alone():
  items = [1, -2, 3, 4, -5, 6]
  found = _run(_square_or_die, items, 2)
  assert found == [1, 'lost -2', 9, 16, 'lost -5', 36]


def test_an_error_of_the_function_is_raised():
  with pytest.raises(ArithmeticError):
    _run(_fail, [1, 2], 2)


def test_there_is_a_processor():
  assert 1 <= case_pool.count() <= (os.cpu_count() or 1)


ENDLESS = """
import os, pathlib, sys, time
from dbdc_jax.evaluation import case_pool

def hold(folder):
  (pathlib.Path(folder) / str(os.getpid())).touch()
  time.sleep(600)

if __name__ == '__main__':
  list(case_pool.run(hold, sys.argv[1:] * 2, 2, str))
"""


def _eventually(condition):
  """Waits for what has to come; the limit is against hanging alone."""
  for _ in range(2400):
    if condition():
      return True
    time.sleep(0.05)
  return False


def test_no_process_outlives_the_first_one(tmp_path):
  script, folder = tmp_path / 'endless.py', tmp_path / 'pids'
  script.write_text(ENDLESS)
  folder.mkdir()
  root = pathlib.Path(__file__).parents[2]
  first = subprocess.Popen(
    [sys.executable, str(script), str(folder)],
    env={**os.environ, 'PYTHONPATH': str(root)},
  )
  assert _eventually(lambda: len(list(folder.iterdir())) == 2)
  others = [int(file.name) for file in folder.iterdir()]
  first.kill()
  first.wait()
  alive = lambda number: pathlib.Path(f'/proc/{number}').exists()
  assert _eventually(lambda: not any(map(alive, others)))
