"""Errors of ImageExampleGen: those that stop the run, and the one that sends a file to quarantine."""


class UnusableImageError(Exception):
    """The image goes to quarantine, with its label; the message is the reason."""


class DatasetError(Exception):
    """The dataset cannot be trained on as it is; the message says what to change."""


class LayoutError(DatasetError):
    """The files are not arranged as the layout requires."""


class UnnamedClassesError(DatasetError):
    """Nothing names the classes of the dataset.

    Attributes:
      label_features: Raw example features of the label that every example has.
    """

    def __init__(self, message: str, label_features: tuple[str, ...]) -> None:
        """Keeps the label beside the message."""
        super().__init__(message, label_features)  # pickled with both: a worker may raise it
        self.label_features = label_features

    def __str__(self) -> str:
        return str(self.args[0])


class ClassTooSmallError(DatasetError):
    """A class has too few different images to be in every split."""


class ClassesChangedError(DatasetError):
    """The dataset no longer has the classes that the pipeline was compiled for."""


class ClassWithoutTrainingImagesError(DatasetError):
    """A class has no usable image in the train split."""


class DamagedContainerError(DatasetError):
    """A file of many examples cannot be read to its end; the number of lost examples is unknown."""


class EmptySplitError(DatasetError):
    """A required split has no usable image."""


class LostFilesError(RuntimeError):
    """The first pass did not return every file that it was given: a defect of the program."""


class TooManyBadFilesError(DatasetError):
    """The fraction of unusable files is above `data.max_bad_fraction`."""


class AmbiguousMasksError(DatasetError):
    """The masks of the dataset contradict each other, so that the classes of their pixels are unclear."""


class ClassWithoutPixelsError(DatasetError):
    """A class has no pixel in the masks that the model is trained on."""
