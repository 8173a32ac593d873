"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras

from trainer_module.options import TrainingOptions

# One cycle: the learning rate rises from a 25th of its peak in the first three tenths of all steps, then falls to
# almost 0.
_CYCLE_START, _CYCLE_RISE, _CYCLE_END = 1 / 25, 0.3, 1e-4


def build(
    options: TrainingOptions,
    *,
    learning_rate: float,
    epochs: int,
    steps_per_epoch: int,
    weights: Iterable[keras.Variable],
) -> keras.optimizers.Optimizer:
    """Builds the configured optimizer for one training phase.

    Args:
      options: Optimizer, schedule, weight decay, clipping and precision.
      learning_rate: Highest learning rate of the phase.
      epochs: Number of epochs of the phase, over which a schedule runs.
      steps_per_epoch: Number of steps per epoch.
      weights: Weights to train. Weight decay is not applied to vectors: biases, and scale and shift of batch
        normalisation.

    Reference: Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101, algorithms 1 and 2 (decay decoupled from the
    gradient, times the learning rate); He et al. 2019, https://arxiv.org/abs/1812.01187, section 3.1 (no decay of
    vectors); Polyak & Juditsky 1992, https://doi.org/10.1137/0330046 (average of weights); Micikevicius et al. 2018,
    https://arxiv.org/abs/1710.03740, section 3.2 (loss scaling).
    """
    common: dict[str, Any] = {
        "learning_rate": _schedule(options, learning_rate, epochs, steps_per_epoch),
        "global_clipnorm": options.clip_norm or None,
        "use_ema": bool(options.weight_average),
        "ema_momentum": options.weight_average,
    }
    # Only None disables weight decay in Keras: 0 costs a pass over all weights in every step.
    decay = options.weight_decay or None
    optimizer: keras.optimizers.Optimizer
    if options.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(
            momentum=options.momentum, nesterov=options.nesterov, weight_decay=decay, **common
        )
    elif options.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(weight_decay=options.weight_decay, **common)
    else:
        optimizer = keras.optimizers.Adam(**common)
    if options.weight_decay:
        optimizer.exclude_from_weight_decay(var_list=[weight for weight in weights if len(weight.shape) < 2])
    if options.precision == "mixed_float16":  # without it, gradients below 6e-8 become zero
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _schedule(
    options: TrainingOptions, learning_rate: float, epochs: int, steps_per_epoch: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    steps, warmup = epochs * steps_per_epoch, round(options.warmup_epochs * steps_per_epoch)
    if options.schedule == "one_cycle":
        return OneCycle(learning_rate, steps)
    if options.schedule == "cosine":
        return WarmupThenCosine(learning_rate, steps, warmup)
    return learning_rate


@keras.saving.register_keras_serializable("tfx_vision")
class WarmupThenCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that grows linearly to its peak, then falls to 0 along half a cosine.

    Reference: Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, equation 5 (without restarts); Goyal et al.
    2017, https://arxiv.org/abs/1706.02677, section 2.2 (gradual warm-up).
    """

    def __init__(self, learning_rate: float, steps: int, warmup_steps: int = 0) -> None:
        """Args: peak learning rate; total number of steps; number of steps in which it grows."""
        super().__init__()
        self.learning_rate, self.steps, self.warmup_steps = learning_rate, steps, warmup_steps

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step, counted from 0; float32 []."""
        ops = keras.ops
        step = ops.cast(step, "float32")
        growing = self.learning_rate * (step + 1.0) / max(1, self.warmup_steps)
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        falling = _half_cosine(self.learning_rate, 0.0, progress)
        return ops.where(step < self.warmup_steps, growing, falling)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"learning_rate": self.learning_rate, "steps": self.steps, "warmup_steps": self.warmup_steps}


@keras.saving.register_keras_serializable("tfx_vision")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that rises to its peak in three tenths of the steps, then falls to almost 0, along half cosines.

    Reference: Smith & Topin 2018, https://arxiv.org/abs/1708.07120, section 3; half cosines instead of straight
    lines as in fast.ai.
    """

    def __init__(self, learning_rate: float, steps: int) -> None:
        """Args: peak learning rate; total number of steps."""
        super().__init__()
        self.learning_rate, self.steps = learning_rate, steps

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step, counted from 0; float32 []."""
        ops = keras.ops
        progress = ops.cast(step, "float32") / max(1, self.steps)
        rising = _half_cosine(self.learning_rate * _CYCLE_START, self.learning_rate, progress / _CYCLE_RISE)
        falling = _half_cosine(
            self.learning_rate, self.learning_rate * _CYCLE_END, (progress - _CYCLE_RISE) / (1 - _CYCLE_RISE)
        )
        return ops.where(progress < _CYCLE_RISE, rising, falling)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"learning_rate": self.learning_rate, "steps": self.steps}


def _half_cosine(start: float, end: float, progress: Any) -> Any:
    progress = keras.ops.clip(progress, 0.0, 1.0)
    return end + (start - end) * 0.5 * (1.0 + keras.ops.cos(math.pi * progress))
