"""``python -m mltrace``: the command line."""

from .cli import main


main()
