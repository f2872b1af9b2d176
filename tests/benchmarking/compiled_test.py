"""Programs written by hand, whose kernels and bytes are known."""

import dataclasses
from importlib import metadata
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbdc_jax import benchmark
from dbdc_jax.benchmarking import (
  ahead_of_time,
  choices,
  compiled,
  hlo,
  origins,
  tables,
  workload,
)
from dbdc_jax.benchmarking.origins import Part
from dbdc_jax.runtime import parallel

ROOT = pathlib.Path(__file__).parents[2]

# Frames 2 and 5 are called from the first, 3 from 2, 4 from 3, 6 from 5.
TABLES = """\
HloModule jit_step, is_scheduled=true

FileNames
1 "/project/dbdc_jax/step.py"
2 "/project/dbdc_jax/models/unet.py"
3 "/project/dbdc_jax/models/projector.py"
4 "/packages/flax/linen/linear.py"
5 "/packages/optax/_src/update.py"
6 "/project/dbdc_jax/sinkhorn.py"

FunctionNames
1 "step"

FileLocations
1 {file_name_id=1 function_name_id=1 line=1 end_line=1 column=1 end_column=2}
2 {file_name_id=2 function_name_id=1 line=1 end_line=1 column=1 end_column=2}
3 {file_name_id=3 function_name_id=1 line=1 end_line=1 column=1 end_column=2}
4 {file_name_id=4 function_name_id=1 line=1 end_line=1 column=1 end_column=2}
5 {file_name_id=5 function_name_id=1 line=1 end_line=1 column=1 end_column=2}
6 {file_name_id=6 function_name_id=1 line=1 end_line=1 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=2}
4 {file_location_id=4 parent_frame_id=4}
5 {file_location_id=5 parent_frame_id=2}
6 {file_location_id=6 parent_frame_id=2}

"""
FUSED = """\
%fused_add (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %sum = f32[4,8]{1,0} add(%p, %p), \
metadata={op_name="jit(step)/jvp()/add" stack_frame_id=2}
}

%fused_dot (p: bf16[4,8], w: bf16[8,2]) -> f32[4,2] {
  %p = bf16[4,8]{1,0} parameter(0)
  %w = bf16[8,2]{1,0} parameter(1)
  ROOT %product = f32[4,2]{1,0} dot(%p, %w), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}
}

"""
# Sinkhorn's loop adds a number and copies eight: 4 + 4 and 32 + 32 bytes.
LOOP = """\
%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %t = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[8]{0} get-tuple-element(%t), index=1
  %next = s32[] fusion(%i), kind=kLoop, calls=%fused_next, \
metadata={op_name="jit(step)/jvp(sinkhorn)/while/body/add" stack_frame_id=6}
  %y = f32[8]{0} copy(%x)
  ROOT %out = (s32[], f32[8]{0}) tuple(%next, %y)
}

%condition (t: (s32[], f32[8])) -> pred[] {
  %t = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  ROOT %less = pred[] fusion(%i), kind=kLoop, calls=%fused_less
}

"""
KNOWN = (
  ', backend_config={"known_trip_count":{"n":"3"},'
  '"known_init_step":{"init":"0","step":"1"}}'
)


def program(*lines: str) -> str:
  """A program with these lines in its entry computation."""
  body = '\n'.join(f'  {line}' for line in lines)
  return (
    f'{TABLES}{FUSED}{LOOP}ENTRY %main.1 (a: f32[4,8]) -> f32[4,8] {{\n'
    f'  %a = f32[4,8]{{1,0}} parameter(0), metadata={{op_name="a"}}\n'
    f'{body}\n}}\n'
  )


def line(shape: str, call: str, op_name: str = '', frame: int = 0) -> str:
  """An instruction %k as XLA writes it."""
  said = f'op_name="{op_name}" ' if op_name else ''
  said += 'scheduling_name="k"'
  said += f' stack_frame_id={frame}' if frame else ''
  return f'%k = {shape} {call}, metadata={{{said}}}'


def loop(backend: str = KNOWN) -> list[str]:
  return [
    '%zero = s32[] constant(0)',
    '%x = f32[8]{0} fusion(%a), kind=kLoop, calls=%fused_slice',
    '%start = (s32[], f32[8]{0}) tuple(%zero, %x)',
    '%loop = (s32[], f32[8]{0}) while(%start), condition=%condition,'
    f' body=%body{backend}',
  ]


def _numbers(found, *kinds):
  return tuple(found[kind] for kind in kinds)


def _parts(found):
  """Origin -> (kernels, bytes), of the parts that have kernels."""
  return {
    origins.Origin(part, way == 'backward'): _numbers(kind, 'kernels', 'bytes')
    for part, ways in found['parts'].items()
    for way, kind in ways.items()
    if kind['kernels']
  }


def origin(instruction: str) -> origins.Origin:
  """The only kernel's of a program."""
  (found,) = _parts(compiled.count(program(instruction)))
  return found


@pytest.mark.parametrize(
  ('shape', 'size'),
  [
    ('f32[2,3]{1,0}', 24),
    ('bf16[5]{0:T(8)S(1)}', 10),
    ('pred[7]', 7),
    ('s4[3]', 2),
    ('c64[2]', 16),
    ('f8e4m3fn[6]', 6),
    ('f32[]', 4),
    ('u8[0]{0}', 0),
    ('token[]', 0),
    ('(f32[2]{0}, (s32[], pred[3]{0}), /*index=2*/u16[2]{0})', 19),
  ],
)
def test_bytes_of_a_shape(shape, size):
  assert hlo.size(shape) == size


def test_a_fusion_moves_its_operands_once_and_its_result():
  found = compiled.count(
    program(line('f32[4,8]{1,0}', 'fusion(%a, %a), kind=kLoop, calls=%f'))
  )
  assert _numbers(found, 'kernels', 'bytes', 'copies') == (1, 256, 0)


def test_what_only_names_arrays_costs_nothing():
  found = compiled.count(
    program(
      '%b = f32[32]{0} bitcast(%a)',
      '%c = f32[] constant(1)',
      '%t = (f32[32]{0}, f32[]) tuple(%b, %c)',
      '%g = f32[32]{0} get-tuple-element(%t), index=0',
    )
  )
  assert _numbers(found, 'kernels', 'bytes') == (0, 0)


def test_a_tuple_of_results_is_read_by_its_elements():
  found = compiled.count(
    program(
      '%t = (f32[2]{0}, /*index=1*/f32[6]{0}) fusion(%a), kind=kInput,'
      ' calls=%f',
      '%g = f32[6]{0} get-tuple-element(%t), index=1',
      'ROOT %k = f32[6]{0} copy(%g)',
    )
  )
  assert found['bytes'] == (128 + 8 + 24) + (24 + 24)
  assert _numbers(found, 'kernels', 'copies') == (2, 1)


def test_a_convolution_has_its_workspace_among_its_results():
  call = (
    'custom-call(%a), window={size=3x3 pad=1_1x1_1},'
    ' dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"'
  )
  found = compiled.count(program(line('(f32[4]{0}, u8[10]{0})', call)))
  assert _numbers(found, 'kernels', 'bytes') == (1, 128 + 16 + 10)
  assert _parts(found).keys() == {origins.Origin(Part.CONVOLUTIONS, False)}


def test_a_loop_counts_as_often_as_it_runs():
  found = compiled.count(program(*loop()))
  # A slice before it: 128 + 32.
  assert found['bytes'] == 160 + 3 * (8 + 64)
  assert _numbers(found, 'kernels', 'copies') == (1 + 3 * 2, 3)
  assert _numbers(found, 'loops', 'open_loops') == (1, 0)
  assert _parts(found)[origins.Origin(Part.SINKHORN, False)] == (3, 24)


def test_a_loop_of_unknown_length_counts_once_and_is_said():
  found = compiled.count(program(*loop(backend='')))
  # Its condition is a kernel then: 4 + 1 bytes.
  assert found['bytes'] == 160 + 72 + 5
  assert _numbers(found, 'loops', 'open_loops') == (1, 1)


def test_what_is_started_counts_where_it_is_done():
  found = compiled.count(
    program(
      '%s = (f32[4,8]{1,0}, f32[4,8]{1,0}, u32[]) copy-start(%a)',
      '%d = f32[4,8]{1,0} copy-done(%s)',
      '%r = f32[4,8]{1,0} all-reduce-start(%d), to_apply=%fused_add',
      'ROOT %e = f32[4,8]{1,0} all-reduce-done(%r)',
    )
  )
  assert _numbers(found, 'kernels', 'bytes', 'copies') == (2, 512, 1)


def test_calls_are_entered_and_the_larger_branch_is_taken():
  found = compiled.count(
    program(
      '%i = s32[] constant(0)',
      '%t = (s32[], f32[8]{0}) call(%a), to_apply=%body',
      '%c = (s32[], f32[8]{0}) conditional(%i, %t, %t),'
      ' branch_computations={%condition, %body}',
    )
  )
  assert _numbers(found, 'kernels', 'bytes', 'copies') == (4, 2 * 72, 2)


def test_the_source_file_says_which_part_a_kernel_is():
  fusion = 'fusion(%a), kind=kLoop, calls=%f'
  jvp, back = 'jit(step)/jvp()/add', 'jit(step)/transpose(jvp())/add'
  one = lambda *said: origin(line('f32[4,8]{1,0}', fusion, *said))
  assert one(jvp, 2) == (Part.NETWORK, False)
  assert one(back, 2) == (Part.NETWORK, True)
  assert one(jvp, 3) == (Part.PROJECTOR, False)
  # Called from the projector: flax's layer is its.
  assert one(back, 4) == (Part.PROJECTOR, True)
  assert one('jit(step)/add', 5) == (Part.OPTIMIZER, False)
  assert one('jit(step)/add', 1) == (Part.OTHER, False)
  draw = 'jit(step)/jvp(vmap(jit(_bernoulli)))/lt'
  assert one(draw, 2) == (Part.DRAWS, False)
  assert one('jit(step)/transpose', 5) == (Part.OPTIMIZER, False)


def test_a_kernel_without_a_name_is_what_it_fuses():
  fusion = 'fusion(%a), kind=kLoop, calls=%fused_add'
  assert origin(line('f32[4,8]{1,0}', fusion)) == (Part.NETWORK, False)
  nothing = 'fusion(%a), kind=kLoop, calls=%elsewhere'
  assert origin(line('f32[4,8]{1,0}', nothing)) == (Part.OTHER, False)


def test_products_and_convolutions_are_told_from_the_rest():
  back = 'jit(step)/transpose(jvp(Projector))/dot_general'
  dot = 'fusion(%a), kind=kCustom, calls=%fused_dot'
  assert origin(line('f32[4,2]{1,0}', dot, back, 4)) == (Part.PRODUCTS, True)
  call = 'custom-call(%a), custom_call_target="__cublas$gemm"'
  assert origin(line('f32[4,2]{1,0}', call, back, 4)) == (
    Part.PRODUCTS,
    True,
  )
  call = 'custom-call(%a), custom_call_target="__cudnn$convBackwardInput"'
  assert origin(line('f32[4]{0}', call)) == (Part.CONVOLUTIONS, True)
  assert origin(line('f32[4,8]{0,1}', 'copy(%a)', back, 4)) == (
    Part.COPIES,
    True,
  )


def test_parents_of_frames_are_numbered_in_two_ways():
  text = program(line('f32[4,8]{1,0}', 'copy(%a)', '', 4))
  head, tail = text.split('StackFrames')
  lower = head + 'StackFrames'
  for number in (1, 2, 4):
    tail = tail.replace(
      f'parent_frame_id={number}}}', f'parent_frame_id={number - 1}}}'
    )
  expected = (
    '/packages/flax/linen/linear.py',
    '/project/dbdc_jax/models/projector.py',
    '/project/dbdc_jax/step.py',
  )
  assert hlo.parse(text).sources[4] == expected
  assert hlo.parse(lower + tail).sources[4] == expected


def test_another_text_is_refused():
  with pytest.raises(ValueError, match='no entry computation'):
    compiled.count('module @jit_step {}')


def test_the_parts_add_up_and_the_table_has_them():
  counts = compiled.count(program(*loop()))
  kinds = [kind for part in counts['parts'].values() for kind in part.values()]
  for name in ('kernels', 'bytes'):
    assert sum(kind[name] for kind in kinds) == counts[name]
  found = {
    **dataclasses.asdict(workload.Workload()),
    **counts,
    'card': 'h100',
    'bytes_per_second': 10**9,
    'floor_ms': 0.25,
    'memory': {'arguments': 2**20, 'donated': 0, 'temporaries': 2**21},
    'compile_seconds': 1.0,
  }
  table = tables.compiled_table(json.loads(json.dumps(found)))
  assert 'Sinkhorn' in table and 'optimizer' not in table
  assert '7 kernels' in table and 'copies: 3, loops: 1' in table


def test_the_compiled_step_is_the_pmapped_one():
  """On this process's devices both give the same, and donate the state."""

  def toy(state, batch, signals, plan):
    total = jax.lax.psum(jnp.sum(batch['x']) * signals, parallel.AXIS)
    return state + total * plan, {'total': total}

  mesh = jax.sharding.Mesh(np.array(jax.devices()), (parallel.AXIS,))
  meshed, placed = parallel.mesh_step(toy, mesh)
  found = []
  for function in (parallel.pmap_step(toy), meshed):
    state = parallel.place(np.arange(3.0, dtype=np.float32))
    batch = parallel.shard({'x': np.arange(16.0).reshape(2, 8)})
    new, metrics = function(state, batch, np.float32(2), np.float32(0.5))
    found.append((np.asarray(new), float(metrics['total'])))
    assert state.is_deleted()
  np.testing.assert_array_equal(found[0][0], found[1][0])
  assert found[0][1] == found[1][1] == 240
  assert [tuple(p.spec) for p in placed] == [(), (parallel.AXIS,), (), ()]


def test_a_card_is_described():
  assert 'h100' in choices.cards()
  assert ahead_of_time.bandwidth('h100') == 3_352_320_000_000


def test_without_its_packages_the_command_says_what_to_install(
  monkeypatch, capsys
):
  def nowhere(name):
    raise metadata.PackageNotFoundError(name)

  monkeypatch.setattr(metadata, 'version', nowhere)
  with pytest.raises(SystemExit) as caught:
    benchmark.main(['--compile-for', 'h100', '--methods', 'supervised'])
  assert caught.value.code == 2
  said = capsys.readouterr().err
  assert 'jax-cuda13-plugin' in said and choices.REQUIREMENTS in said
  assert (ROOT / choices.REQUIREMENTS).is_file()


def test_a_plugin_of_another_version_is_refused(monkeypatch, tmp_path):
  for tool in ('bin/ptxas', 'nvvm/libdevice'):
    (tmp_path / tool).mkdir(parents=True)
  monkeypatch.setattr(ahead_of_time, '_toolkit', lambda: tmp_path)
  monkeypatch.setattr(metadata, 'version', lambda name: '0.0.1')
  assert 'jax-cuda13-plugin 0.0.1 does not go with' in ahead_of_time.lacking()


def test_a_step_is_compiled_for_a_card():
  """The real compiler: half a minute, where its packages are installed."""
  if lacking := ahead_of_time.lacking():
    pytest.skip(f'nothing to compile with: {lacking}')
  small = workload.Workload(
    method='supervised', width=2, patch=16, batch=4, classes=3
  )
  found = ahead_of_time.count_elsewhere(small, 'h100')
  assert found['dtype'] == 'bfloat16' and found['open_loops'] == 0
  convolutions = found['parts'][Part.CONVOLUTIONS]
  assert convolutions['forward']['kernels'] > 15
  memory = found['memory']
  # The new state lies where the old one was.
  assert 0.9 * memory['arguments'] < memory['donated'] <= memory['results']
