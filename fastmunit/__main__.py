"""`python -m fastmunit` is the command `fastmunit`; torchrun starts it as `torchrun -m fastmunit train`."""

from fastmunit.cli import main

if __name__ == "__main__":
    main()
