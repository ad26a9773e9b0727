"""Entry point of ``python -m raysweep.tune``."""

from raysweep.tune.cli import main

if __name__ == "__main__":
    main()
