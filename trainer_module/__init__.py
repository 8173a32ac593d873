"""How a model is made: pure TensorFlow and Keras 3, usable without TFX (only `hooks` imports it)."""

import os

# Importing TFT would otherwise switch tf.keras to Keras 2; this must be set before TensorFlow is imported.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "0")
