"""Entry point of ``python -m raysweep``, the same as the command ``raysweep``."""

from raysweep.cli import main

if __name__ == "__main__":
    main()
