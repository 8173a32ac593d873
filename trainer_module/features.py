"""Names that more than one part of the product uses."""

# --- Raw example: written by ImageExampleGen --------------------------------------------------------------------
IMAGE_ENCODED = "image/encoded"  # bytes of the file
IMAGE_FORMAT = "image/format"  # "JPEG", "PNG" or "GIF"
IMAGE_FORMATS = ("GIF", "JPEG", "PNG")
IMAGE_HEIGHT = "image/height"  # int64, pixels, upright, before any resizing
IMAGE_WIDTH = "image/width"  # int64, pixels
IMAGE_FILENAME = "image/filename"  # path relative to the dataset folder, with forward slashes
IMAGE_SHA256 = "image/sha256"  # hex digest of the image file as it was read
# int64 [2], low and high: values of the dataset's 16-bit images that became 0 and 255, if these have been reduced to 8
# bits (`model_input.Window`). Absent if none has been; not part of the schema.
IMAGE_WINDOW = "image/window"
CLASS_TEXT = "image/class/text"  # name of the class, or of every class of the image
CLASS_COUNT = "image/class/count"  # int64, number of classes of the image; only of images with any number of them
MASK_ENCODED = "mask/encoded"  # PNG of uint8 class ids [height, width]
MASK_CLASSES = "mask/class/text"  # names of the classes that occur in the mask, any number

# Boxes, one value per box; an image without boxes has empty lists. Keys of the TensorFlow Object Detection API, which
# has no key for crowds.
BOX_YMIN = "image/object/bbox/ymin"  # float32, range [0, 1], relative to the upright image
BOX_XMIN = "image/object/bbox/xmin"
BOX_YMAX = "image/object/bbox/ymax"
BOX_XMAX = "image/object/bbox/xmax"
BOX_CORNERS = (BOX_YMIN, BOX_XMIN, BOX_YMAX, BOX_XMAX)
BOX_CLASSES = "image/object/class/text"  # class names
BOX_DIFFICULT = "image/object/difficult"  # int64, 1 for an object that is hard to recognise (Pascal VOC)
BOX_IS_CROWD = "image/object/is_crowd"  # int64, 1 for a box around many objects of the class (COCO)
# Derived from the boxes, for statistics and drift.
BOX_COUNT = "image/object/count"  # int64, one value: number of boxes
BOX_SIZE = "image/object/size"  # float32, square root of the box's share of the image's area, range (0, 1]
BOX_ASPECT_RATIO = "image/object/aspect_ratio"  # float32, width / height in pixels of the upright image
BOX_DTYPES = {
    BOX_CLASSES: "string",
    **dict.fromkeys((*BOX_CORNERS, BOX_SIZE, BOX_ASPECT_RATIO), "float32"),
    **dict.fromkeys((BOX_DIFFICULT, BOX_IS_CROWD, BOX_COUNT), "int64"),
}

# Before any resizing: mean and standard deviation of each channel, float32, range [0, 255].
COLORS = ("red", "green", "blue")
LUMA = "luma"
CHANNELS = (*COLORS, LUMA)


def mean_key(channel: str) -> str:
    """Returns the feature with a channel's mean."""
    return f"image/mean/{channel}"


def deviation_key(channel: str) -> str:
    """Returns the feature with a channel's standard deviation."""
    return f"image/deviation/{channel}"


SLICE_PREFIX = "slice/"
SLICE_BRIGHTNESS = "slice/brightness"  # dark | normal | bright
SLICE_RESOLUTION = "slice/resolution"  # small | medium | large
SLICE_ORIENTATION = "slice/orientation"  # portrait | square | landscape
BUILT_IN_SLICES = (SLICE_BRIGHTNESS, SLICE_RESOLUTION, SLICE_ORIENTATION)
# Of images with boxes only.
SLICE_OBJECT_COUNT = "slice/object_count"  # none | one | few | many
SLICE_OBJECT_SIZE = "slice/object_size"  # none | small | medium | large
BOX_SLICES = (SLICE_OBJECT_COUNT, SLICE_OBJECT_SIZE)

# --- Transformed example: output of the transform graph ----------------------------------------------------------
# Height and width of the original image have the keys of raw examples.
IMAGE_PIXELS = "image_pixels"  # raw uint8 pixels [*image_size, channels] in one string
# int64 class id (index of the class name), float32 [C] with 1 for every class of the image, raw uint8 mask
# [*image_size] in one string, or packed boxes in coordinates of the original image.
LABEL = "label"
PIXEL_MEAN = "pixel_mean"  # float32 [channels], over the train split, range [0, 255]
PIXEL_VARIANCE = "pixel_variance"  # float32 [channels], over the train split

# --- Splits -----------------------------------------------------------------------------------------------------
TRAIN = "train"
VALIDATION = "validation"
TEST = "test"
SPLITS = (TRAIN, VALIDATION, TEST)

# --- Signatures of the exported SavedModel ----------------------------------------------------------------------
SERVING_DEFAULT = "serving_default"
EXAMPLES = "examples"
CLASSIFY = "classify"
TRANSFORM_FEATURES = "transform_features"
EXPLAIN = "explain"
EXPLAIN_LABELS = "explain_labels"  # of models with any number of classes per image
EXPLAIN_DETECTIONS = "explain_detections"  # of models that detect objects
EXPLANATIONS = (EXPLAIN, EXPLAIN_LABELS, EXPLAIN_DETECTIONS)
EMBED = "embed"

# --- Layers of the network --------------------------------------------------------------------------------------
BACKBONE_LAYER = "backbone"  # a pre-trained network, a nested model: pixels [0, 255] → feature maps
FEATURES_LAYER = "features"  # the coarsest feature map of a model [N, h, w, c]
POOLED_LAYER = "pooled"  # in heads that pool: mean or maximum [N, c] of that map, or the flattened map [N, h*w*c]
EMBEDDING_LAYER = "embedding"  # in heads that pool: the vector [N, d] that the class layer reads
LOGITS_LAYER = "logits"  # the output of the head

# --- Files of the model_run artifact ----------------------------------------------------------------------------
KERAS_FILE = "model.keras"
HISTORY_FILE = "history.csv"
OPTIONS_FILE = "options.json"  # TrainerOptions with the tuned values

# --- Files of the model artifact --------------------------------------------------------------------------------
# Beside the SavedModel, so in every pushed version: the class names, a JSON list in the order of the ids.
LABELS_FILE = "assets.extra/labels.json"

# --- Logging ------------------------------------------------------------------------------------------------------
PROGRESS_LOGGER = "tfx_vision.progress"  # one line per epoch; the command shows it beside the running node
