"""The one line of a library's error that tells people what is wrong."""


def first_line(error: BaseException) -> str:
    """Shortens an error's text to its first informative line, at most 300 characters.

    TensorFlow puts the failing operation in braces before the cause, and a heading before both.
    """
    text = str(getattr(error, "message", None) or error) or type(error).__name__
    lines = [line.strip() for line in text.splitlines() if line.strip() and line.strip() != "Graph execution error:"]
    line = lines[0] if lines else type(error).__name__
    return line.split("}} ")[-1].split(" [Op:")[0][:300]
