"""The command `fastmunit`, for `python -m fastmunit` and `torchrun -m fastmunit train`."""

from fastmunit.cli import main

if __name__ == "__main__":
    main()
