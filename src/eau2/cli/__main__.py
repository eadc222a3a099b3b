"""`python -m eau2.cli`, for where the `eau2` command is not on the path."""

from eau2.cli.app import main

main()
