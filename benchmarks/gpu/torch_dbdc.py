"""A DBDC train step as a PyTorch user would write it, timed.

  python benchmarks/gpu/torch_dbdc.py --k 2 --patch 96 --bf16 [--compile]
  python benchmarks/gpu/torch_dbdc.py --predict 8,72,512 --bf16

One modality at a time, a BatchNorm2d per modality, four forward passes a
modality, autocast, channels last, fused Adam. The slices are on the device
already and are not augmented. With --compile, a modality's passes and losses
are one graph, so that there is one graph per modality and none of them is
compiled again. The last line printed is a JSON object: median milliseconds of
a step that is waited for, slices per second, peak MiB.
"""

import argparse
from collections.abc import Callable, Sequence
import json
import sys
import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_SLOPE = 0.01
_DICE_EPSILON = 1e-5
_DIM = 64
# Weight of the unlabelled losses, and of the prototypes'.
_CONSISTENCY, _DELTA = 0.5, 0.1


def _size(x: torch.Tensor, factor: int) -> list[int]:
  return [factor * side for side in x.shape[2:]]


def _interpolate(x: torch.Tensor, factor: int, aligned: bool) -> torch.Tensor:
  return functional.interpolate(
    x, _size(x, factor), mode='bilinear', align_corners=aligned
  )


# The compiler takes `interpolate` apart, and its gradient becomes a scatter by
# atomic additions. As an operation of its own it stays the library's kernels.
_opaque = torch.library.custom_op(
  'dbdc_peer::interpolate', _interpolate, mutates_args=()
)


@_opaque.register_fake
def _(x, factor, aligned):
  shape = (*x.shape[:2], *_size(x, factor))
  return x.new_empty(shape).to(memory_format=torch.channels_last)


def _keep(ctx, inputs, output):
  x, ctx.factor, ctx.aligned = inputs
  ctx.shape = list(x.shape)


def _gradient(ctx, gradient):
  gradient = gradient.contiguous(memory_format=torch.channels_last)
  back = torch.ops.aten.upsample_bilinear2d_backward(
    gradient, list(gradient.shape[2:]), ctx.shape, ctx.aligned, None, None
  )
  return back, None, None


_opaque.register_autograd(_gradient, setup_context=_keep)


def upsample(x: torch.Tensor, factor: int, aligned: bool) -> torch.Tensor:
  """Bilinear interpolation of `[b, C, H, W]`."""
  call = _opaque if torch.compiler.is_compiling() else _interpolate
  return call(x, factor, aligned)


class Layer(nn.Module):
  """3 x 3 convolution, the modality's batch norm, leaky ReLU."""

  def __init__(self, inputs: int, outputs: int, modalities: int):
    super().__init__()
    self.convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    self.norms = nn.ModuleList(
      nn.BatchNorm2d(outputs, momentum=0.01) for _ in range(modalities)
    )

  def forward(self, x: torch.Tensor, k: int) -> torch.Tensor:
    """Slices `[b, C, H, W]` of modality k."""
    x = self.norms[k](self.convolution(x))
    return functional.leaky_relu(x, _SLOPE)


class Block(nn.Module):
  """Two layers."""

  def __init__(self, inputs: int, outputs: int, modalities: int):
    super().__init__()
    self.first = Layer(inputs, outputs, modalities)
    self.second = Layer(outputs, outputs, modalities)

  def forward(self, x: torch.Tensor, k: int) -> torch.Tensor:
    """Slices `[b, C, H, W]` of modality k."""
    return self.second(self.first(x, k), k)


class Network(nn.Module):
  """The U-Net with a batch norm per modality, and the projector."""

  def __init__(self, classes: int, modalities: int, width: int):
    super().__init__()
    w, block = width, lambda i, o: Block(i * width, o * width, modalities)
    self.stem = Layer(1, w, modalities)
    self.down = nn.ModuleList((block(1, 2), block(2, 4), block(4, 8)))
    self.middle = block(8, 8)
    self.up = nn.ModuleList((block(16, 8), block(12, 4), block(6, 2)))
    self.head = nn.ModuleList(
      (Layer(2 * w, 2 * w, modalities), Layer(2 * w, w, modalities))
    )
    self.logits = nn.Conv2d(w, classes, 3, padding=1)
    taps = 14 * w
    self.projector = nn.Sequential(
      nn.Conv2d(taps, taps, 1),
      nn.LeakyReLU(_SLOPE),
      nn.Conv2d(taps, taps, 1),
      nn.LeakyReLU(_SLOPE),
      nn.Conv2d(taps, _DIM, 1),
    )
    self.embedding_norm = nn.LayerNorm(_DIM)
    self.prototype_norm = nn.LayerNorm(classes)

  def encode(self, x: torch.Tensor, k: int) -> list[torch.Tensor]:
    """The three levels' features and the bottleneck's."""
    levels = [self.down[0](self.stem(x, k), k)]
    for block in self.down[1:]:
      levels.append(block(functional.max_pool2d(levels[-1], 2), k))
    levels.append(self.middle(functional.max_pool2d(levels[-1], 2), k))
    return levels

  def decode(
    self, levels: list[torch.Tensor], k: int
  ) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits `[b, C, H, W]`, and the decoder's levels, coarse to fine."""
    x, taps = levels[-1], []
    for block, skip in zip(self.up, reversed(levels[:-1]), strict=True):
      x = block(torch.cat([skip, upsample(x, 2, False)], 1), k)
      taps.append(x)
    for layer in self.head:
      x = layer(x, k)
    return self.logits(x), taps

  def project(self, taps: list[torch.Tensor]) -> torch.Tensor:
    """Unit embeddings `[b * H * W, D]`, float32."""
    coarse, middle, fine = taps
    x = torch.cat(
      [fine, upsample(middle, 2, True), upsample(coarse, 4, True)], 1
    )
    x = self.projector(x).permute(0, 2, 3, 1).reshape(-1, _DIM).float()
    return functional.normalize(self.embedding_norm(x), dim=-1)

  def forward(self, x: torch.Tensor, k: int) -> torch.Tensor:
    """Logits `[b, C, H, W]`: prediction."""
    return self.decode(self.encode(x, k), k)[0]


def _dice(p: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
  """Dice loss of `[n, C]` or `[b, C, H, W]` probabilities."""
  chosen = functional.one_hot(labels, p.shape[1]).to(p.dtype).movedim(-1, 1)
  axes = [i for i in range(p.dim()) if i != 1]
  both = 2 * (p * chosen).sum(axes) + _DICE_EPSILON
  each = (p * p).sum(axes) + (chosen * chosen).sum(axes) + _DICE_EPSILON
  return (1 - both / each).mean()


def _sinkhorn(scores: torch.Tensor) -> torch.Tensor:
  """Assignment `[n, C]` by three rounds of Sinkhorn-Knopp in logarithms."""
  n, classes = scores.shape
  q = scores / 0.05
  share = torch.full((), n / classes, device=scores.device).log()
  for _ in range(3):
    q = q - torch.logsumexp(q, 0, keepdim=True) + share
    q = q - torch.logsumexp(q, 1, keepdim=True)
  return q


def _prototype_loss(
  net: Network,
  embeddings: torch.Tensor,
  bank: torch.Tensor,
  k: int,
  labels: torch.Tensor,
) -> torch.Tensor:
  """The four terms of modality k's embeddings `[n, D]`, bank `[K, C, D]`."""
  scores = torch.einsum('nd,kcd->nkc', embeddings, bank)
  own = scores[:, k]
  z, modalities = net.prototype_norm(own), scores.shape[1]
  segmentation = 0.5 * _dice(z.softmax(-1), labels)
  segmentation += 0.5 * functional.cross_entropy(z, labels)
  index = labels[:, None, None].expand(-1, modalities, 1)
  mine = scores.gather(2, index)[..., 0]  # [n, K]
  positive = mine[:, k]
  others = (mine.sum(1) - positive) / max(modalities - 1, 1)
  modality = others.mean() - positive.mean()
  contrast = functional.cross_entropy(own / 0.1, labels)
  return (segmentation + modality + contrast + ((1 - positive) ** 2).mean()) / 4


@torch.no_grad()
def _update(
  bank: torch.Tensor, k: int, embeddings: torch.Tensor, labels: torch.Tensor
) -> None:
  """Moves modality k's prototypes to the embeddings that are kept."""
  prototypes = bank[k]
  assigned = _sinkhorn(embeddings @ prototypes.T).argmax(1)
  chosen = functional.one_hot(labels, len(prototypes)).float()
  chosen = chosen * (assigned == labels)[:, None]
  mean = functional.normalize(chosen.T @ embeddings, dim=-1)
  moved = functional.normalize(0.99 * prototypes + 0.01 * mean, dim=-1)
  bank[k] = torch.where(chosen.sum(0)[:, None] > 0, moved, prototypes)


class Trainer:
  """The network, its optimizer and random slices on the device."""

  def __init__(self, flags: argparse.Namespace):
    self.flags, self.device = flags, torch.device(flags.device)
    net = Network(flags.classes, flags.k, flags.width).to(self.device)
    self.net = net.to(memory_format=torch.channels_last)
    bank = torch.randn(flags.k, flags.classes, _DIM, device=self.device)
    self.bank = functional.normalize(bank, dim=-1)
    fused = {'fused': True} if self.device.type == 'cuda' else {}
    self.optimizer = torch.optim.Adam(net.parameters(), 1e-4, **fused)
    self.losses, self.update = self._losses, _update
    if flags.compile:
      # One graph per modality: k is a constant of each.
      options = {'dynamic': False, 'mode': flags.mode}
      self.losses = torch.compile(self._losses, **options)
      self.update = torch.compile(_update, dynamic=False)
    self.data = [[self._slices() for _ in range(flags.k)] for _ in range(4)]

  def images(self, count: int) -> torch.Tensor:
    """Random slices `[count, 1, H, W]`, channels last."""
    side = self.flags.patch
    x = torch.rand(count, 1, side, side, device=self.device)
    return x.to(memory_format=torch.channels_last)

  def autocast(self) -> Any:
    """bfloat16 where it was asked for."""
    return torch.autocast(
      self.device.type, torch.bfloat16, enabled=self.flags.bf16
    )

  def _slices(self):
    """Labelled images and labels, and the weak and the strong view."""
    flags = self.flags
    shape = (flags.batch, flags.patch, flags.patch)
    labels = torch.randint(0, flags.classes, shape, device=self.device)
    images = [self.images(flags.batch) for _ in range(3)]
    return images[0], labels, *images[1:]

  def _losses(self, k, images, labels, weak, strong):
    """Modality k's loss, and what moves its prototypes."""
    net = self.net
    with self.autocast():
      logits, taps = net.decode(net.encode(images, k), k)
      if not self.flags.supervised:
        embeddings = net.project(taps)
        features = net.encode(weak, k)
        with torch.no_grad():
          pseudo = net.decode(features, k)[0].argmax(1)
        strong_logits, taps = net.decode(net.encode(strong, k), k)
        strong_embeddings = net.project(taps)
        dropped = [*features[:-1], functional.dropout(features[-1], 0.5)]
        dropped_logits, taps = net.decode(dropped, k)
        dropped_embeddings = net.project(taps)
    logits = logits.float()
    loss = functional.cross_entropy(logits, labels)
    loss = loss + _dice(logits.softmax(1), labels)
    if self.flags.supervised:
      return loss, None, None
    flat, guessed = labels.flatten(), pseudo.flatten()
    of_bank = lambda e, y: _DELTA * _prototype_loss(net, e, self.bank, k, y)
    loss = loss + of_bank(embeddings, flat)
    for z, e in (
      (strong_logits, strong_embeddings),
      (dropped_logits, dropped_embeddings),
    ):
      more = functional.cross_entropy(z.float(), pseudo) + of_bank(e, guessed)
      loss = loss + _CONSISTENCY * more
    kept = torch.cat([embeddings, strong_embeddings]).detach()
    return loss, kept, torch.cat([flat, guessed])

  def step(self, number: int) -> None:
    """One step on all modalities."""
    self.optimizer.zero_grad(set_to_none=True)
    for k, slices in enumerate(self.data[number % len(self.data)]):
      if self.flags.compile:
        # With CUDA graphs: results of the call before may be written over.
        torch.compiler.cudagraph_mark_step_begin()
      loss, embeddings, labels = self.losses(k, *slices)
      loss.backward()
      if embeddings is not None:
        self.update(self.bank, k, embeddings, labels)
    self.optimizer.step()

  def wait(self) -> None:
    """Waits for the device."""
    if self.device.type == 'cuda':
      torch.cuda.synchronize()


def _seconds(call: Callable[[], Any], wait: Callable[[], None], number: int):
  """Of a call that is waited for, the median; of calls in a row, the mean."""
  seconds = []
  for _ in range(number):
    start = time.perf_counter()
    call()
    wait()
    seconds.append(time.perf_counter() - start)
  start = time.perf_counter()
  for _ in range(number):
    call()
  wait()
  row = (time.perf_counter() - start) / number
  return sorted(seconds)[len(seconds) // 2], row


def train(trainer: Trainer, steps: int) -> dict[str, Any]:
  """Times steps; all is compiled in the first ones."""
  flags, numbers = trainer.flags, iter(range(10**9))
  call = lambda: trainer.step(next(numbers))
  start = time.perf_counter()
  for _ in range(10 if flags.compile else 5):
    call()
  trainer.wait()
  found = {'warm_up_seconds': time.perf_counter() - start}
  median, row = _seconds(call, trainer.wait, steps)
  sets = 1 if flags.supervised else 2
  found |= {
    'ms': 1e3 * median,
    'ms_in_a_row': 1e3 * row,
    'images_per_s': sets * flags.k * flags.batch / median,
  }
  if flags.compile:
    counted = torch._dynamo.utils.counters
    found['graphs'] = counted['stats']['unique_graphs']
    found['graph_breaks'] = dict(counted['graph_break'])
  return found


@torch.inference_mode()
def predict(trainer: Trainer, sizes: Sequence[int], calls: int):
  """Windows per second of the forward pass with running statistics."""
  net, found = trainer.net.eval(), {}
  if trainer.flags.compile:
    net = torch.compile(net, dynamic=False, mode=trainer.flags.mode)
  with trainer.autocast():
    for size in sizes:
      images = trainer.images(size)
      call = lambda images=images: net(images, 0)
      _seconds(call, trainer.wait, 3)
      found[str(size)] = size / _seconds(call, trainer.wait, calls)[1]
  return {'windows_per_second': found}


def main(argv: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  sizes = {'k': 2, 'patch': 96, 'batch': 8, 'classes': 8, 'width': 32}
  for name, default in (sizes | {'steps': 30}).items():
    parser.add_argument(f'--{name}', type=int, default=default)
  parser.add_argument('--bf16', action='store_true')
  parser.add_argument('--compile', action='store_true')
  parser.add_argument('--mode', default='default', help='of torch.compile')
  parser.add_argument('--supervised', action='store_true')
  parser.add_argument('--predict', default='', help='windows a call: 8,72,512')
  there = torch.cuda.is_available()
  parser.add_argument('--device', default='cuda' if there else 'cpu')
  flags = parser.parse_args(argv)
  torch.backends.cudnn.benchmark = True
  # TF32 where float32 was asked for, as jax has it.
  torch.set_float32_matmul_precision('high')
  # One graph per modality and size; the limit of 8 falls back to eager.
  torch._dynamo.config.recompile_limit = 64
  trainer = Trainer(flags)
  if flags.predict:
    batches = [int(size) for size in flags.predict.split(',')]
    found = predict(trainer, batches, flags.steps)
  else:
    found = train(trainer, flags.steps)
  about = {
    'peer': f'torch {torch.__version__}',
    'params': sum(p.numel() for p in trainer.net.parameters()),
    'peak_mib': torch.cuda.max_memory_allocated() / 2**20 or None,
  }
  print(json.dumps(about | found | vars(flags)))
  return 0


if __name__ == '__main__':
  sys.exit(main())
