"""The engine: what makes a step safe. It knows hosts and facts, and no procedure and no notebook.

`step` says what a step is, `plan` asks what it would do, `run` does it, `journal` remembers, `resume` proves, `undo`
takes back, `lock` keeps others out, `job` runs what takes long.
"""
