"""How far a sweep is, from its folder alone: ``raysweep status results/NAME``."""

from raysweep.monitor.status_command import main

if __name__ == "__main__":
    main()
