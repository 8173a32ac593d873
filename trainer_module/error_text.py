"""The one line of a library's error that tells people what is wrong."""

# What TensorFlow puts before the cause: headings, and where in the program the operation was made.
_HEADINGS = ("Graph execution error:", "Detected at node", "<stack traces unavailable>", 'File "')


def first_line(error: BaseException) -> str:
    """Shortens an error's text to its first informative line, at most 300 characters.

    TensorFlow puts the failing operation in braces before the cause, and headings before both.
    """
    text = str(getattr(error, "message", None) or error) or type(error).__name__
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(_HEADINGS)]
    line = lines[0] if lines else type(error).__name__
    return line.split("}} ")[-1].split(" [Op:")[0][:300]
