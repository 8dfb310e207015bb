"""Commands killed with SIGKILL before each of their system calls that write: what lies there, and what running again makes of it.

`python -m tests.kill` tries every command and prints a table. `supervisor` counts and kills, `harness` judges, `cases` lists the
commands.
"""
