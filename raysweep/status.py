"""Show a sweep's progress from its folder: ``raysweep status results/NAME``."""

from raysweep.monitor.status_command import main

if __name__ == "__main__":
    main()
