"""Train one grid with raysweep and with the tools that one would take otherwise, in one run.

    .venv/bin/pip install --target build/hydra -r benchmarks/peers/requirements.txt
    python -m benchmarks.peers [--rounds N] [--tools NAME ...] [--hydra FOLDER] ...

The grid: learning rates x replay weights, 24 configurations of two permuted tasks of ``mnist_5k``,
an MLP with 200-200 hidden units and replay of 1,000 samples, 5 epochs a task. raysweep trains it
with its command. All others train the same with one trainer in plain torch (``trainer.py``), from
the scripts beside it, which are what the lines of code count. All use both cores, but for the
for-loop and Hydra's basic launcher, and one thread for each training.

- *Time*: fresh processes, from the start of the command to its end, each tool once a round, in
  turns. Processor time is that of all processes that the command started, Ray's included. A grid
  of 24 learning rates, whose configurations have no stage in common, is raysweep's alone: for the
  others it costs the same.
- *First row*: the same command with a grid of one configuration.
- *Large*: raysweep alone on 96 configurations. What a further configuration costs is the
  difference to 24 over 72; of the others, whose cost is the same for each, that of 24 to 1 over 23.
- *Interrupted*: once half of the epochs are trained, all processes are killed, or the command gets
  what ctrl-c sends; the same command runs again. What was trained twice is counted from a log that
  the trainers write (for raysweep, ``logged/sitecustomize.py`` has its workers write it).
- *Grown*: the grid gets one more learning rate, and the same command runs again.
- *Diverged*: one of two learning rates makes the loss overflow; the trainer raises.

W&B Sweeps have no figures: they need a server. Figures are JSON lines on the standard output, a
table goes to the standard error. There are no goals, so the exit code is 0 unless a tool fails.
"""
