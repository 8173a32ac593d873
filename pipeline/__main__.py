"""`python -m pipeline` is `tfx-vision`."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
