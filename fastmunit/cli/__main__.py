"""`python -m fastmunit.cli` is the `fastmunit` command."""

from fastmunit.cli import main

main()
