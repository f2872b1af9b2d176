import json
import math

from dbdc_jax.workdir.metric_writer import MetricWriter, flatten, read_rows


def _write(folder, steps, resume=0):
  with MetricWriter(folder, first_step=resume, total_steps=9) as writer:
    for step in steps:
      writer.write(step, step, 'epoch', {'loss': 1.0 / step, 'd': {'ct': step}})


def test_rows_come_back_flat_and_in_order(tmp_path):
  _write(tmp_path, [1, 2, 3])
  rows = read_rows(tmp_path)
  assert [row['step'] for row in rows] == [1, 2, 3]
  assert rows[2]['d/ct'] == 3 and rows[0]['kind'] == 'epoch'
  assert any((tmp_path / 'tensorboard').iterdir())


def test_no_row_stands_twice_after_a_resume(tmp_path):
  _write(tmp_path, [1, 2, 3])
  _write(tmp_path, [3, 4], resume=2)
  assert [row['step'] for row in read_rows(tmp_path)] == [1, 2, 3, 4]


def test_a_killed_runs_broken_last_line_is_left_out(tmp_path):
  _write(tmp_path, [1, 2])
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 3, "lo')
  assert [row['step'] for row in read_rows(tmp_path)] == [1, 2]
  _write(tmp_path, [3], resume=2)
  assert [row['step'] for row in read_rows(tmp_path)] == [1, 2, 3]


def test_what_is_not_finite_is_null(tmp_path):
  assert flatten({'a': math.nan, 'b': {'c': math.inf}}) == {
    'a': None,
    'b/c': None,
  }
  with MetricWriter(tmp_path) as writer:
    writer.write(1, 1, 'epoch', {'a': math.nan})
  (line,) = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert json.loads(line)['a'] is None


def test_only_the_lead_writes(tmp_path):
  with MetricWriter(tmp_path / 'x', lead=False) as writer:
    writer.write(1, 1, 'epoch', {'a': 1})
    writer.line('text')
    writer.progress(1, 'text')
  assert not (tmp_path / 'x').exists()
  assert read_rows(tmp_path / 'x') == []


def test_lines_off_a_terminal_tell_the_time_left(tmp_path, capsys):
  with MetricWriter(tmp_path, total_steps=50) as writer:
    assert 'compiling' in capsys.readouterr().err
    writer.line('epoch 1', step=5)
    assert 'left' not in capsys.readouterr().err  # Nothing to go by yet.
    for step in range(1, 20):
      writer.progress(step, 'epoch 1')
    (estimate,) = capsys.readouterr().err.splitlines()
    assert 's a step (' in estimate and 'min left' in estimate
    writer.line('epoch 1', step=19)
  assert 'min left' in capsys.readouterr().err
