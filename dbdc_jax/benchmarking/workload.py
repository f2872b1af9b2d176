"""Train steps to be measured: any number of modalities, no scans needed."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import pathlib
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from configs import common
from data import task_file
from dbdc_jax import methods
from dbdc_jax.runtime import parallel
from dbdc_jax.training import step
from dbdc_jax.workdir import train_state

PLAN = step.Plan(seed=np.int32(0), learning_rate=np.float32(1e-4))


@dataclasses.dataclass(frozen=True)
class Workload:
  """What is trained.

  Attributes:
    method: one of `methods.names()`.
    modalities: K.
    width: channels of the first convolution.
    patch: side of the training crops, in pixels; slices are twice as large.
    batch: labelled (and as many unlabelled) slices per modality and step;
      methods that take volumes have `mass.volumes` of the config instead.
    classes: C, background included.
    embedding_dim: D.
    stride: of the embeddings (`mpcl.stride`).
    dtype: 'auto', 'float32' or 'bfloat16'.
    assignment: `mpcl.assignment`.
  """

  method: str = 'dbdc'
  modalities: int = 1
  width: int = 32
  patch: int = 96
  batch: int = 8
  classes: int = 8
  embedding_dim: int = 64
  stride: int = 1
  dtype: str = 'auto'
  assignment: str = 'sinkhorn'

  def config(self, task: str = '') -> ml_collections.ConfigDict:
    """The paper's settings with this workload's sizes; `task` is its file."""
    config = common.base()
    config.task = task
    config.augment.flips = True
    config.mpcl.assignment = self.assignment
    return self.resize(config)

  def resize(
    self, config: ml_collections.ConfigDict
  ) -> ml_collections.ConfigDict:
    """Sets the method and the sizes of any task's config, in place."""
    config.method = self.method
    config.batch_size = self.batch
    config.dtype = self.dtype
    config.model.width = self.width
    config.model.embedding_dim = self.embedding_dim
    config.augment.patch_size = self.patch
    config.data.slice_size = 2 * self.patch
    config.mpcl.stride = self.stride
    return config


class MeasuredStep(NamedTuple):
  """A train step and how to make what it is called with.

  Attributes:
    function: the pmapped `(state, batch, signals, plan) -> (state, metrics)`;
      it can be lowered, too.
    shapes: of the state.
    state: makes the state before the first step.
    batch: the batch of every step, split over the devices.
    signals: as in the epochs after the warm-up: every loss acts.
    images: slices that a step reads, of all modalities.
  """

  function: Any
  shapes: train_state.TrainState
  state: Callable[[], train_state.TrainState]
  batch: dict[str, Any]
  signals: methods.Signals
  images: int

  @property
  def arguments(self) -> tuple[Any, ...]:
    """What `function` is traced with: the state by its shapes."""
    return self.shapes, self.batch, self.signals, PLAN


@contextlib.contextmanager
def _task(workload: Workload) -> Iterator[str]:
  """The file of a task of K equal modalities, there in the context only."""
  labels = {f'class {c}': c for c in range(1, workload.classes)}
  names = [f'm{k}' for k in range(workload.modalities)]
  task = {
    'name': 'benchmark',
    'slice_size': 2 * workload.patch,
    'modalities': {name: {'labels': labels} for name in names},
  }
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'task.json'
    task_file.write(task, path)
    yield str(path)


def use_virtual_devices(count: int) -> None:
  """Splits the CPU into this many devices; before anything uses one."""
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', count)


def _built(workload: Workload) -> tuple[methods.Problem, methods.Method]:
  with _task(workload) as task:
    problem = methods.resolve(workload.config(task))
    return problem, methods.build(problem.config)


def build_method(workload: Workload) -> methods.Method:
  """The workload's method, by the same builder as in training."""
  return _built(workload)[1]


def modality_counts(name: str, wanted: Sequence[int]) -> list[int]:
  """The numbers of modalities that a step of this method can have.

  Args:
    name: of the method.
    wanted: numbers that are asked for.

  Returns:
    Those; 2 alone of a method that goes from one modality to another, 1 alone
    of one that has a network for each.
  """
  workload = Workload(method=name, modalities=2)
  with _task(workload) as task:
    traits = methods.traits(workload.config(task))
  if traits.transfer:
    return [2]
  return list(wanted) if traits.joint else [1]


def random_batch(
  workload: Workload, method: methods.Method, b: int
) -> dict[str, Any]:
  """Random slices or volumes whose labels are blocks of classes."""
  shape = workload.modalities, b, 2 * workload.patch
  return _random(method, workload.classes, *shape)


def _random(
  method: methods.Method, classes: int, k: int, b: int, size: int
) -> dict[str, Any]:
  rng = np.random.default_rng(0)
  index = np.arange(k * b, dtype=np.int32).reshape(k, b)
  shape = (k, b, depth) if (depth := method.traits.volumes) else (k, b)
  image = rng.integers(0, 65536, (*shape, size, size), np.uint16)
  coarse = rng.integers(0, classes, (*shape, 8, 8), np.uint8)
  label = coarse.repeat(size // 8, -2).repeat(size // 8, -1)
  batch = {'labeled': {'image': image, 'label': label, 'index': index}}
  if method.traits.unlabeled:
    batch['unlabeled'] = {'image': image[:, ::-1].copy(), 'index': index}
  return batch


def started(memory: Any) -> Any:
  """The memory with a prototype bank that is ready, as after the start."""
  bank = memory.get('prototypes') if isinstance(memory, dict) else None
  if bank is None:
    return memory
  vectors = jax.random.normal(jax.random.key(1), bank.bank.shape)
  vectors /= jnp.linalg.norm(vectors, axis=-1, keepdims=True)
  ready = jnp.ones_like(bank.ready)
  return {**memory, 'prototypes': bank._replace(bank=vectors, ready=ready)}


@functools.cache
def initial(workload: Workload) -> tuple[Any, Any]:
  """Parameters and memory on the host; compiled once per workload."""
  init = build_method(workload).init
  params, memory = parallel.run_once(init, jax.random.key(0))
  return jax.device_get((params, started(memory)))


def make(
  workload: Workload, tx: optax.GradientTransformation | None = None
) -> MeasuredStep:
  """Makes a step; nothing is compiled yet.

  Args:
    workload: what to train.
    tx: another optimizer than the method's.

  Raises:
    ValueError: several modalities for a method that has a network for each,
      or a batch that does not divide over the devices.
  """
  problem, method = _built(workload)
  if tx is not None:
    method = method._replace(recipe=method.recipe._replace(tx=tx))
  return of(problem, method, lambda: initial(workload))


def of(
  problem: methods.Problem,
  method: methods.Method,
  start: Callable[[], tuple[Any, Any]],
) -> MeasuredStep:
  """Makes a step of any method on random scans; nothing is compiled yet.

  Args:
    problem: of the network.
    method: what is trained.
    start: makes its parameters and memory.

  Raises:
    ValueError: a batch that does not divide over the devices.
  """
  size, traits = method.recipe.batch_size, method.traits
  parallel.check_batch(size, traits.multiple, method.recipe.batch_field)
  k, c = len(problem.modalities), len(problem.classes)
  side = problem.config.data.slice_size
  shapes = train_state.state_shapes(method, problem)

  def state() -> train_state.TrainState:
    # Zeros are an optimizer's start; initialising compiles for long.
    empty = parallel.blank(shapes)
    params, memory = start()
    return parallel.place(empty._replace(params=params, memory=memory))

  kinds = 2 if traits.unlabeled else 1
  return MeasuredStep(
    function=step.make_step(method),
    shapes=shapes,
    state=state,
    batch=parallel.shard(_random(method, c, k, size, side)),
    signals=methods.full_signals(jnp.ones((k, c), bool), jnp.ones(k, bool)),
    images=kinds * k * size * (traits.volumes or 1),
  )
